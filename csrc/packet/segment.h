/* SPDX-License-Identifier: Apache-2.0 */
/* One super-packet in, wire-size packets out: what a NIC's TSO and USO do.
 *
 * The super-packet is left as it is; each segment is written whole to where the caller wants it, with lengths, IPv4 ID,
 * TCP sequence number and flags and both checksums of its own (Linux net/ipv4/tcp_offload.c, udp_offload.c).
 */
#ifndef SEGMENT_H
#define SEGMENT_H

#include "packet/ip.h"

struct segmenter {
	struct ip ip;          /* the super-packet */
	uint32_t headers;      /* IP and transport header, bytes */
	uint32_t gso_size;     /* payload of every segment but the last */
	uint32_t offset;       /* payload already handed out */
	uint32_t index;
	uint64_t fixed_sum;    /* what all segments' transport checksums share */
};

/* Returns false if the packet is no TCP or UDP packet with payload, or its headers are too long. */
bool segment_begin(struct segmenter *s, const struct ip *super, uint32_t gso_size);

/* Size of the next segment, 0 when none is left. */
uint32_t segment_size(const struct segmenter *s);

/* How many segments there are in all. */
uint32_t segment_count(const struct segmenter *s);

/* Write the next segment (segment_size bytes, more than 0) to out. */
void segment_next(struct segmenter *s, uint8_t *out);

#endif
