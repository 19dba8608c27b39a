/* SPDX-License-Identifier: Apache-2.0 */
/* One worker: a thread that owns one TUN queue and one UDP socket and moves packets both ways until it is stopped.
 *
 * Each turn takes the newest forwarding table, then one bounded burst from each side, so neither side and no control change
 * ever waits for the other side to run dry. A turn without work polls on for spin_us, then sleeps in poll(2).
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <time.h>

#include "receive.h"
#include "send.h"

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000;
}

/* Show the table before using it and look again: dp_commit either sees it shown, or we see that there is a newer one. */
static const struct fib *take_table(struct worker *w)
{
	const struct fib *mine = atomic_load_explicit(&w->table, memory_order_relaxed);
	const struct fib *newest = atomic_load(&w->dp->table);

	if (mine == newest)
		return mine;
	while (mine != newest) {
		mine = newest;
		atomic_store(&w->table, mine);
		newest = atomic_load(&w->dp->table);
	}
	count(&w->counters.table_changes, 1);
	return mine;
}

static int wait_for_work(struct worker *w)
{
	struct pollfd fds[] = {
		{.fd = w->tun_fd, .events = POLLIN},
		{.fd = w->receive_fd, .events = POLLIN},
		{.fd = w->dp->stop_fd, .events = POLLIN},
	};

	count(&w->counters.sleeps, 1);
	if (poll(fds, 3, -1) < 0 && errno != EINTR)
		return -errno;
	return 0;
}

int dp_run(struct dp *dp, uint32_t worker)
{
	struct worker *w;
	uint64_t idle_since = 0;

	if (worker >= dp->config.workers)
		return -EINVAL;
	w = dp->worker[worker];
	while (!atomic_load_explicit(&dp->stopping, memory_order_acquire)) {
		const struct fib *fib = take_table(w);
		int received = receive_burst(w, fib);
		int sent = send_burst(w, fib);
		int error;

		if (received < 0)
			return received;
		if (sent < 0)
			return sent;
		if (received || sent) {
			idle_since = 0;
			continue;
		}
		if (dp->config.spin_us) {
			uint64_t now = now_us();

			if (!idle_since)
				idle_since = now;
			if (now - idle_since < dp->config.spin_us) {
				sched_yield();
				continue;
			}
		}
		error = wait_for_work(w);
		if (error)
			return error;
		idle_since = 0;
	}
	return 0;
}
