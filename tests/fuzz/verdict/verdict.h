/* SPDX-License-Identifier: Apache-2.0 */
/* What must come of a packet, by the rules alone: README, csrc/README, decisions 0004, 0005, 0006, 0016, 0018 and the RFCs, without csrc.
 *
 * One packet at a time, plainly: no train, run, offload, cache or table but a list of peers. A packet that breaks several rules is
 * refused for the first that csrc/README names.
 */
#ifndef VERDICT_H
#define VERDICT_H

#include <linux/virtio_net.h>

#include "verdict/records.h"

enum {
	slots = 16,
	vxlan_bytes = 8 + 14, /* VXLAN and Ethernet (RFC 7348 section 5) */
};

struct rules {
	const struct dp_config *config;
	const struct dp_peer *peers; /* slots of them; family 0: none */
};

/* All that comes out, and what is refused. Of counters only drops that are the packet's own, tx_ and rx_ are set. */
struct verdict {
	struct records wire;
	struct records host;
	struct dp_counters counters;
	uint64_t errors[errors_kinds]; /* that are owed, in host too */
};

/* A received message: a datagram, or several of segment bytes (0: one). */
struct arrived {
	union underlay_address from;
	const uint8_t *data;
	uint32_t len;
	uint32_t segment;
	uint8_t ecn;
	bool is_truncated;
};

void judge_out(struct verdict *verdict, const struct rules *rules, const uint8_t *data, uint32_t len,
	       const struct virtio_net_hdr *offload);
void judge_in(struct verdict *verdict, const struct rules *rules, const struct arrived *arrived);

/* Whose the address is: the longest prefix wins. */
const struct dp_peer *find_holder(const struct rules *rules, const uint8_t *address, uint8_t version);

/* The bits up to this one are the same. */
bool same_bits(const uint8_t *a, const uint8_t *b, uint32_t bits);

/* How far the format's header reaches before an inner packet. */
static inline uint32_t overhead_of(const struct dp_config *config)
{
	return config->backend == DP_BACKEND_VXLAN ? vxlan_bytes : 0;
}

#endif
