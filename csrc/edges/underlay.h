/* SPDX-License-Identifier: Apache-2.0 */
/* The underlay edge: UDP sockets, in trains of equal datagrams where the kernel can (UDP_SEGMENT, UDP_GRO). */
#ifndef UNDERLAY_H
#define UNDERLAY_H

#include "state/forwarder.h"

/* Which of the wanted underlay offloads the sockets take; switches UDP_GRO on. */
uint32_t underlay_probe(const struct dp_config *config, uint32_t wanted);

/* Wire the batches' headers once. */
void underlay_init(struct worker *w);

/* Queue a datagram that lies in the arena. Datagrams of one peer and source leave in the order they were queued. */
void underlay_queue(struct worker *w, uint8_t *data, uint32_t len, const struct fib_peer *peer, uint32_t source, uint8_t ecn);

/* Whether the send batch still takes a datagram. */
static inline bool underlay_has_room(const struct send_batch *batch)
{
	return batch->datagrams < datagrams_max && batch->trains < trains_max;
}

/* Send all that is queued; what leaves and what fails is counted. */
void underlay_flush(struct worker *w);

/* Count inner packets that have left for the peer. */
void underlay_count(struct worker *w, const struct fib_peer *peer, uint64_t packets, uint64_t bytes);

/* Take up to messages_max datagram trains from the socket fd. Returns how many, or -errno when the socket is unusable. */
int underlay_receive(struct worker *w, int fd);

/* What the kernel says beside a received train: size of its datagrams (0: it is one) and the outer ECN. */
void underlay_ancillary(const struct msghdr *message, uint32_t *segment, uint8_t *ecn);

#endif
