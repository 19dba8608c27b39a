/* SPDX-License-Identifier: Apache-2.0 */
/* What left, packet by packet: what a forwarder let out, and what the verdict says must come out, in one form, so that they compare.
 *
 * What must stay true: two packets that may not be told apart have one content, any others two (digests of 64 bits); packets that
 * must stay in their order have one flow.
 */
#ifndef RECORDS_H
#define RECORDS_H

#include "check.h"
#include "dataplane.h"
#include "encap/encap.h"
#include "packet/icmp.h"
#include "verdict/look.h"

enum { records_max = 32768, errors_kinds = icmp_errors };

struct record {
	uint64_t flow;
	uint64_t content;
	uint32_t len;    /* of the inner packet */
	uint32_t source; /* the socket; what left a forwarder for the wire alone */
	uint32_t slot;   /* the peer, or for ICMP that we make slot_error and its kind; the verdict's alone */
};

enum { slot_error = DP_MAX_PEERS };

struct records {
	uint32_t used;
	struct record record[records_max];
};

/* What a match sums up: of the records that were found, by what the verdict says they are. */
struct sums {
	uint64_t packets;
	uint64_t bytes;
	uint64_t errors[errors_kinds];
	uint64_t by_slot[16];
};

/* A datagram with this much encapsulation before an inner packet. The packet's own checks have been made. */
void record_wire(struct records *records, const union underlay_address *to, uint8_t tos, const uint8_t *data, uint32_t len,
		 uint32_t overhead, uint32_t source, uint32_t slot);

/* A packet for the host. Its transport checksum must be right. */
void record_host(struct records *records, const struct dp_config *config, const uint8_t *packet, uint32_t len, uint32_t slot);

/* Every record of left is, in the order of its flow, one of right, and a flow has one source. */
void match(const struct records *left, const struct records *right, bool is_ordered, struct sums *sums);

#endif
