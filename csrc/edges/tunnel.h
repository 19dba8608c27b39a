/* SPDX-License-Identifier: Apache-2.0 */
/* The short way out for super-packets: whole, in one write, as a tunnel super-packet that the kernel or the network card
 * cuts (Linux 6.17, tun.c, TUN_F_UDP_TUNNEL_GSO). A TAP takes the write; what redirects it to the underlay device is the
 * user's business (dataplane/host/edges/tunnel.py).
 */
#ifndef TUNNEL_H
#define TUNNEL_H

#include "packet/segment.h"
#include "state/forwarder.h"

/* Whether the TAP takes tunnel super-packets for this underlay: sets its header size and offloads, learns our outer addresses. */
uint32_t tunnel_probe(struct dp *dp, uint32_t wanted);

/* Whether the outer lengths (16 bits) can hold the super-packet, and the underlay device its segments: it fragments none. */
bool tunnel_fits(const struct worker *w, const struct segmenter *segments);

/* Send the super-packet that lies in the arena with its encap header before it. Returns false, with nothing sent, where the
 * TAP refused it; what cannot work a second time (anything but a full queue) ends this way out for the worker.
 */
bool tunnel_send(struct worker *w, const struct segmenter *segments, const struct fib_peer *peer, uint32_t source);

#endif
