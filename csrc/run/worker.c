/* SPDX-License-Identifier: Apache-2.0 */
/* One worker: a thread that serves some TUN queues and UDP sockets and moves packets both ways until it is stopped.
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

#include "receive/receive.h"
#include "run/bulk.h"
#include "send/send.h"

enum {
	slice_ns = 100000,  /* the least that the scheduler takes (sched(7), kernel/sched/syscalls.c) */
	watched_max = 2 * DP_MAX_QUEUES + 1,
	sparse_packets = 4,        /* between two sleeps */
	long_yield_us = 2000,
	crowded_least_us = 50 * 1000,
	crowded_most_us = 10 * 1000 * 1000,
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
	 * field is not heeded). Nice stays as it is: a worker that goes before the senders takes their packets one at a time. */
	struct scheduling wish = {
		.size = sizeof(wish), .policy = SCHED_OTHER, .nice = getpriority(PRIO_PROCESS, 0), .runtime = slice_ns};

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

/* One burst of each queue and socket that has something, be it an error that reading tells. Returns what was done, or -errno. */
static int serve(struct worker *w, const struct fib *fib, const struct epoll_event *events, int ready)
{
	const struct dp_edges *edges = w->edges;
	int done = 0;

	w->turns++;
	for (int i = 0; i < ready; i++) {
		uint32_t at = events[i].data.u32;
		bool is_full = false;
		int got, error;

		if (at == edges->tuns + edges->receives) /* the end, which dp_run sees by itself */
			continue;
		if (at < edges->tuns)
			got = send_burst(w, fib, edges->tun_fds[at], &is_full);
		else
			got = receive_burst(w, fib, edges->receive_fds[at - edges->tuns], &is_full);
		if (got < 0)
			return got;
		error = bulk_served(w, at, is_full);
		if (error < 0)
			return error;
		done += got;
	}
	return done;
}

/* What an idle worker goes by: when it became idle, how many packets it had moved when it last slept, until when it takes its
 * processor for crowded, and how long it will the next time. */
struct idleness {
	uint64_t since;
	uint64_t moved;
	uint64_t crowded_until;
	uint64_t crowded_us;
};

static uint64_t moved(const struct worker *w)
{
	return w->counters.tx_packets + w->counters.rx_packets;
}

/* Let others run and look again, or sleep? Whoever yields to somebody that computes comes back with the scheduler's next tick, also
 * if there is a packet to serve; whoever sleeps is woken for it at once. With much to do the yield is right: more is there after it.
 */
static bool looks_again(const struct worker *w, struct idleness *idle)
{
	bool is_sparse = moved(w) - idle->moved < sparse_packets;
	uint64_t now = now_us();

	if (!idle->since)
		idle->since = now;
	if (is_sparse && now < idle->crowded_until)
		return false;
	if (now - idle->since >= w->dp->config.spin_us) {
		if (idle->crowded_us > crowded_least_us)
			idle->crowded_us /= 2;
		return false;
	}
	sched_yield();
	if (is_sparse && now_us() - now >= long_yield_us) {
		idle->crowded_until = now + idle->crowded_us;
		if (idle->crowded_us < crowded_most_us)
			idle->crowded_us *= 4;
	}
	return true;
}

int dp_run(struct dp *dp, uint32_t thread)
{
	struct epoll_event events[watched_max];
	struct idleness idle = {.crowded_us = crowded_least_us};
	struct worker *w;
	int timeout = 0;

	if (thread >= threads_of(dp))
		return -EINVAL;
	w = dp->worker[thread];
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
			idle.since = 0;
			continue;
		}
		if (dp->config.spin_us && looks_again(w, &idle))
			continue;
		count(&w->counters.sleeps, 1);
		timeout = -1;
		idle.since = 0;
		idle.moved = moved(w);
	}
	return 0;
}
