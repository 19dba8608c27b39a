/* SPDX-License-Identifier: Apache-2.0 */
/* One worker: a thread that owns some TUN queues and UDP sockets and moves packets both ways until it is stopped.
 *
 * Each turn takes the newest forwarding table, then one bounded burst from each queue and socket that has something: none of
 * them, and no control change, ever waits for another to run dry, so a flood fills and delays its own queue only. A turn
 * without work looks again for spin_us, then sleeps in poll(2).
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "receive.h"
#include "send.h"

enum {
	slice_ns = 100000,  /* the least that the scheduler takes (sched(7), kernel/sched/syscalls.c) */
	less_nice = 10,
	least_nice = -20,
};

/* struct sched_attr of linux/sched/types.h, which cannot be included beside sched.h; glibc has none before 2.41. */
struct scheduling {
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime;
	uint64_t deadline;
	uint64_t period;
};

void dp_hurry(void)
{
	/* A short slice has an early deadline: whoever floods, or computes, is set aside for us at once (Linux 6.12; before, the
	 * field is not heeded). */
	int nice = getpriority(PRIO_PROCESS, 0);
	int wanted = nice - less_nice < least_nice ? least_nice : nice - less_nice;
	struct scheduling wish = {.size = sizeof(wish), .policy = SCHED_OTHER, .nice = wanted, .runtime = slice_ns};

	if (syscall(SYS_sched_setattr, 0, &wish, 0) == 0 || errno != EPERM)
		return;
	wish.nice = nice; /* less takes CAP_SYS_NICE */
	syscall(SYS_sched_setattr, 0, &wish, 0);
}

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

/* All that a worker waits for: its TUN queues, its sockets, the end. Returns how many. */
static nfds_t watch(const struct worker *w, struct pollfd *fds)
{
	const struct dp_edges *edges = w->edges;
	nfds_t used = 0;

	for (uint32_t i = 0; i < edges->tuns; i++)
		fds[used++] = (struct pollfd){.fd = edges->tun_fds[i], .events = POLLIN};
	for (uint32_t i = 0; i < edges->receives; i++)
		fds[used++] = (struct pollfd){.fd = edges->receive_fds[i], .events = POLLIN};
	fds[used++] = (struct pollfd){.fd = w->dp->stop_fd, .events = POLLIN};
	return used;
}

/* One burst of each that poll(2) found something at, be it an error that reading tells. Returns what was done, or -errno. */
static int serve(struct worker *w, const struct fib *fib, const struct pollfd *fds)
{
	int done = 0;

	for (uint32_t i = 0; i < w->edges->tuns + w->edges->receives; i++) {
		int got;

		if (!fds[i].revents)
			continue;
		got = i < w->edges->tuns ? send_burst(w, fib, fds[i].fd) : receive_burst(w, fib, fds[i].fd);
		if (got < 0)
			return got;
		done += got;
	}
	return done;
}

int dp_run(struct dp *dp, uint32_t worker)
{
	struct pollfd fds[2 * DP_MAX_QUEUES + 1];
	struct worker *w;
	uint64_t idle_since = 0;
	nfds_t watched;
	int timeout = 0;

	if (worker >= dp->config.workers)
		return -EINVAL;
	w = dp->worker[worker];
	watched = watch(w, fds);
	while (!atomic_load_explicit(&dp->stopping, memory_order_acquire)) {
		int ready = poll(fds, watched, timeout);
		const struct fib *fib = take_table(w);
		int done = 0;

		if (ready < 0 && errno != EINTR)
			return -errno;
		if (ready > 0)
			done = serve(w, fib, fds);
		if (done < 0)
			return done;
		timeout = 0;
		if (done) {
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
		count(&w->counters.sleeps, 1);
		timeout = -1;
		idle_since = 0;
	}
	return 0;
}
