/* SPDX-License-Identifier: Apache-2.0 */
/* Received packets of one flow joined to super-packets, as the kernel's GRO does, before they are written to the TUN. */
#ifndef COALESCE_H
#define COALESCE_H

#include "state/forwarder.h"

/* Queue a peer's checked packet for the TUN. Packets lie in the receive buffers until coalesce_flush. gso_size is 0, or, for a
 * super-packet that came whole, the payload of its segments.
 */
void coalesce_add(struct worker *w, const struct fib_peer *peer, const struct ip *ip, enum ip_checksum checksum, uint32_t gso_size);

/* Write all that is queued, and count it for its peer. Packets of one flow are written in the order they were added. */
void coalesce_flush(struct worker *w);

#endif
