/* SPDX-License-Identifier: Apache-2.0 */
/* Underlay to overlay. */
#ifndef RECEIVE_H
#define RECEIVE_H

#include "state/forwarder.h"

/* One bounded burst: receives, checks, decap, TUN writes. Returns how many trains were taken, or -errno. is_full: there may be more. */
int receive_burst(struct worker *w, const struct fib *fib, int fd, bool *is_full);

/* Check and queue one received train: len bytes from one sender, cut into datagrams of segment bytes (0: it is one). */
void receive_train(struct worker *w, const struct fib *fib, const struct sockaddr *from, uint8_t *data, uint32_t len,
		   uint32_t segment, uint8_t outer_ecn);

#endif
