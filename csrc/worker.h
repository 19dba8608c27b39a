/* SPDX-License-Identifier: Apache-2.0 */
/* The part of a worker that is made before its thread runs. */
#ifndef WORKER_H
#define WORKER_H

#include "forwarder.h"

/* Make the epoll instance that the worker waits with, on its queues, its sockets and the end: with poll(2) each turn would cost
 * a look at every one of them. Returns 0 or -errno. */
int worker_watch(struct worker *w);

#endif
