/* SPDX-License-Identifier: Apache-2.0 */
/* One worker: a thread that owns some TUN queues and UDP sockets and moves packets both ways until it is stopped.
 *
 * Each turn takes the newest forwarding table, then one bounded burst from each queue and socket that has something: none of
 * them, and no control change, ever waits for another to run dry, so a flood fills and delays its own queue only. A turn
 * without work looks again for spin_us, then sleeps in epoll_wait(2).
 */
#include <errno.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "receive.h"
#include "send.h"
#include "worker.h"

enum {
	slice_ns = 100000,  /* the least that the scheduler takes (sched(7), kernel/sched/syscalls.c) */
	less_nice = 10,
	least_nice = -20,
	watched_max = 2 * DP_MAX_QUEUES + 1,
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

static int add(int wait_fd, int fd, uint32_t at)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = at};

	return epoll_ctl(wait_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* Each event says where it comes from: TUN queues from 0, then sockets, then the end. */
int worker_watch(struct worker *w)
{
	const struct dp_edges *edges = w->edges;
	int error = 0;

	w->wait_fd = epoll_create1(EPOLL_CLOEXEC);
	if (w->wait_fd < 0)
		return -errno;
	for (uint32_t i = 0; i < edges->tuns && !error; i++)
		error = add(w->wait_fd, edges->tun_fds[i], i);
	for (uint32_t i = 0; i < edges->receives && !error; i++)
		error = add(w->wait_fd, edges->receive_fds[i], edges->tuns + i);
	return error ? error : add(w->wait_fd, w->dp->stop_fd, edges->tuns + edges->receives);
}

/* One burst of each queue and socket that has something, be it an error that reading tells. Returns what was done, or -errno. */
static int serve(struct worker *w, const struct fib *fib, const struct epoll_event *events, int ready)
{
	const struct dp_edges *edges = w->edges;
	int done = 0;

	for (int i = 0; i < ready; i++) {
		uint32_t at = events[i].data.u32;
		int got = 0;

		if (at < edges->tuns)
			got = send_burst(w, fib, edges->tun_fds[at]);
		else if (at < edges->tuns + edges->receives)
			got = receive_burst(w, fib, edges->receive_fds[at - edges->tuns]);
		if (got < 0)
			return got;
		done += got;
	}
	return done;
}

int dp_run(struct dp *dp, uint32_t worker)
{
	struct epoll_event events[watched_max];
	struct worker *w;
	uint64_t idle_since = 0;
	int timeout = 0;

	if (worker >= dp->config.workers)
		return -EINVAL;
	w = dp->worker[worker];
	while (!atomic_load_explicit(&dp->stopping, memory_order_acquire)) {
		int ready = epoll_wait(w->wait_fd, events, watched_max, timeout);
		const struct fib *fib = take_table(w);
		int done = 0;

		if (ready < 0 && errno != EINTR)
			return -errno;
		if (ready > 0)
			done = serve(w, fib, events, ready);
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
