/* SPDX-License-Identifier: Apache-2.0 */
/* Overlay to underlay. */
#ifndef SEND_H
#define SEND_H

#include "state/forwarder.h"

/* One bounded burst: TUN reads, look-up, encap, sends. Returns how many packets were read, or -errno when the TUN is
 * gone. is_full: the bound ended it. */
int send_burst(struct worker *w, const struct fib *fib, int fd, bool *is_full);

#endif
