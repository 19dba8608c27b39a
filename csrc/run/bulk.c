/* SPDX-License-Identifier: Apache-2.0 */
#include "run/bulk.h"

#include <errno.h>
#include <sys/epoll.h>

enum {
	full_bursts = 16,    /* one after the other: a queue that is never empty, some milliseconds of work */
	calm_bursts = 64,
	recent_turns = 4096, /* some tenths of a second while a queue floods */
};

static int add(const struct worker *w, int fd, uint32_t at)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = at};

	return epoll_ctl(w->wait_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int descriptor(const struct dp_edges *edges, uint32_t at)
{
	return at < edges->tuns ? edges->tun_fds[at] : edges->receive_fds[at - edges->tuns];
}

int bulk_watch(struct worker *w)
{
	uint32_t queues = w->edges->tuns + w->edges->receives;
	int error = 0;

	w->wait_fd = epoll_create1(EPOLL_CLOEXEC);
	if (w->wait_fd < 0)
		return -errno;
	for (uint32_t at = 0; at < queues && !w->is_bulk && !error; at++)
		error = add(w, descriptor(w->edges, at), at);
	return error ? error : add(w, w->dp->stop_fd, queues);
}

/* Somebody of the same direction, whom the full queue makes wait. */
static bool is_alone(const struct worker *w, uint32_t at)
{
	const struct dp_edges *edges = w->edges;
	uint32_t first = at < edges->tuns ? 0 : edges->tuns;
	uint32_t end = at < edges->tuns ? edges->tuns : edges->tuns + edges->receives;

	for (uint32_t other = first; other < end; other++)
		if (other != at && w->watched[other].was_served && w->turns - w->watched[other].turn < recent_turns)
			return false;
	return true;
}

static int hand_over(struct worker *w, uint32_t at)
{
	struct worker *to = w->beside;
	int fd = descriptor(w->edges, at);
	int error;

	to->watched[at] = (struct watched){0};
	w->watched[at].was_served = false;
	if (epoll_ctl(w->wait_fd, EPOLL_CTL_DEL, fd, NULL) < 0)
		return -errno;
	count(&w->counters.handovers, 1);
	error = add(to, fd, at); /* from here on it is the other's */
	return error ? add(w, fd, at) : 0;
}

int bulk_served(struct worker *w, uint32_t at, bool is_full)
{
	struct watched *queue = &w->watched[at];

	queue->was_served = true;
	queue->turn = w->turns;
	if (is_full == w->is_bulk) {
		queue->in_a_row = 0;
		return 0;
	}
	if (++queue->in_a_row < (w->is_bulk ? calm_bursts : full_bursts))
		return 0;
	queue->in_a_row = 0;
	return !w->is_bulk && is_alone(w, at) ? 0 : hand_over(w, at);
}
