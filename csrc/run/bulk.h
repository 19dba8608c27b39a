/* SPDX-License-Identifier: Apache-2.0 */
/* Which of a pair of workers serves a queue or socket: the one that owns it, or the bulk worker beside that one.
 *
 * A worker that floods keep busy has used up its share of the processor, and waits for the next tick or two whenever the scheduler
 * sets it aside; who sends little would wait with it. So a queue that is full again and again goes to the bulk worker, a thread
 * that may be busy, and comes back when it is full no more. What must stay true: one of the two waits for a queue, and serves it;
 * it alone hands it over, between two bursts, so a flow's packets keep their order.
 */
#ifndef BULK_H
#define BULK_H

#include "state/forwarder.h"

/* Make the epoll instance that a worker waits with: with poll(2) each turn would cost a look at every queue. The worker waits
 * there for the end, and, if it is no bulk worker, for its queues and sockets. An event's number is the queue's, then the
 * socket's, then that of the end. Returns 0 or -errno. */
int bulk_watch(struct worker *w);

/* A burst of queue or socket `at` is over, which its bound ended (is_full) or nothing being left. Returns 0 or -errno. */
int bulk_served(struct worker *w, uint32_t at, bool is_full);

#endif
