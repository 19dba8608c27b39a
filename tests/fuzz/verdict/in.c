/* SPDX-License-Identifier: Apache-2.0 */
/* What must come of a peer's datagrams. */
#include "verdict/both.h"

enum {
	not_ect = 0,
	ect1 = 1,
	ect0 = 2,
	ce = 3,
};

static bool is_broadcast(const struct dp_peer *own, const uint8_t *address)
{
	if (own->prefix.family != 4 || own->prefix_len >= 31)
		return false;
	for (uint32_t bit = own->prefix_len; bit < 32; bit++)
		if (!(address[bit / 8] >> (7 - bit % 8) & 1))
			return false;
	return true;
}

static const uint8_t *outer_address(const union underlay_address *from)
{
	return from->sa.sa_family == AF_INET ? (const uint8_t *)&from->in.sin_addr : (const uint8_t *)&from->in6.sin6_addr;
}

static bool is_reached_at(const struct dp_peer *peer, const union underlay_address *from)
{
	return peer->prefix.family && !peer->local &&
	       memcmp(peer->next_hop.bytes, outer_address(from), from->sa.sa_family == AF_INET ? 4 : 16) == 0;
}

static void set_ecn(uint8_t *packet, const struct look *look, uint8_t ecn)
{
	if (look->version == 6) {
		packet[1] = (uint8_t)((packet[1] & 0xcf) | ecn << 4);
		return;
	}
	packet[1] = (uint8_t)((packet[1] & 0xfc) | ecn);
	cut_header_checksum(packet, look->ip_header);
}

/* What the segments of a super-packet that nobody cut carry: of UDP the kernel tells, of TCP as much as the MTU allows. 0: it is none. */
static uint32_t segment_size_of(const struct dp_config *config, const struct look *look, uint32_t told)
{
	if (!look->proto || look_headers(look) > headers_most)
		return 0;
	if (look->proto == proto_udp)
		return told;
	return look->len > config->mtu && look_headers(look) < config->mtu ? config->mtu - look_headers(look) : 0;
}

/* How many packets a refused datagram is. */
static uint32_t packets_of(const struct dp_config *config, const struct arrived *arrived, uint32_t told)
{
	uint32_t overhead = overhead_of(config);
	struct look look;

	if (arrived->len <= overhead || !look_at(arrived->data + overhead, arrived->len - overhead, &look))
		return 1;
	return cut_count(&look, segment_size_of(config, &look, told));
}

enum checksum { sum_none, sum_good, sum_begun, sum_wrong };

/* Decision 0004. One that is only begun is the sender's kernel's, which leaves no UDP shorter than its packet. */
static enum checksum judge_checksum(const struct look *look)
{
	uint32_t len;
	uint16_t found, pseudo;

	if (!look->proto)
		return sum_none;
	len = look_transport_len(look);
	found = load16(look->data + look_checksum_at(look));
	if (look->proto == proto_udp && !found)
		return sum_none;
	pseudo = look_pseudo(look, len);
	if (twin_checksum(look->data + look->l4, len, pseudo) == 0)
		return sum_good;
	return found == pseudo && len == look->len - look->l4 ? sum_begun : sum_wrong;
}

/* RFC 6040 section 4.2, figure 4, line by line. 4: drop. */
static uint8_t merge_ecn(uint8_t inner, uint8_t outer)
{
	static const uint8_t merged[4][4] = {
		[not_ect] = {[not_ect] = not_ect, [ect0] = not_ect, [ect1] = not_ect, [ce] = 4},
		[ect0] = {[not_ect] = ect0, [ect0] = ect0, [ect1] = ect1, [ce] = ce},
		[ect1] = {[not_ect] = ect1, [ect0] = ect1, [ect1] = ect1, [ce] = ce},
		[ce] = {[not_ect] = ce, [ect0] = ce, [ect1] = ce, [ce] = ce},
	};

	return merged[inner][outer];
}

/* RFC 7348 section 5, no bit of it that we do not know. Returns the counter of what is wrong. */
static uint64_t *judge_vxlan(struct dp_counters *counters, const struct dp_config *config, const uint8_t *data)
{
	uint8_t version = data[vxlan_bytes] >> 4;

	if (load32(data) != 0x08000000 || data[7])
		return &counters->drop_receive_vxlan_flags;
	if (load32(data + 4) >> 8 != config->vni)
		return &counters->drop_receive_vni;
	if (memcmp(data + 8, config->vtep_mac, 6) != 0)
		return &counters->drop_receive_inner_mac;
	if (!(load16(data + 20) == 0x0800 && version == 4) && !(load16(data + 20) == 0x86dd && version == 6))
		return &counters->drop_receive_inner_type;
	return NULL;
}

/* The inner source is in a subnet of the sender's, or is the sender's own address; vxlan: with that peer's MAC. */
static uint64_t *judge_source(struct dp_counters *counters, const struct rules *rules, const struct arrived *arrived,
			      const struct look *look, const uint8_t *mac, const struct dp_peer **out)
{
	const uint8_t *source = look_source(look);
	uint8_t family = arrived->from.sa.sa_family == AF_INET ? 4 : 6;

	*out = find_holder(rules, source, look->version);
	if (*out && is_reached_at(*out, &arrived->from))
		return !mac || memcmp(mac, (*out)->vtep_mac, 6) == 0 ? NULL : &counters->drop_receive_inner_mac;
	if (is_nobodys(source, look->version) || look->version != family ||
	    memcmp(source, outer_address(&arrived->from), look->address_len) != 0)
		return &counters->drop_receive_inner_source;
	for (uint32_t i = 0; i < slots; i++) {
		*out = &rules->peers[i];
		if (is_reached_at(*out, &arrived->from) && (!mac || memcmp(mac, (*out)->vtep_mac, 6) == 0))
			return NULL;
	}
	return &counters->drop_receive_inner_mac;
}

static uint64_t *judge_destination(struct dp_counters *counters, const struct rules *rules, const struct look *look)
{
	const uint8_t *destination = look_destination(look);
	const struct dp_peer *own = find_holder(rules, destination, look->version);

	if (is_nobodys(destination, look->version))
		return &counters->drop_receive_multicast;
	if (look->version == 4 ? look->icmp_type == 5 : look->icmp_type == 134 || look->icmp_type == 137)
		return &counters->drop_receive_ra;
	if (!own || !own->local)
		return &counters->drop_receive_inner_destination;
	return is_broadcast(own, destination) ? &counters->drop_receive_multicast : NULL;
}

static bool is_leased(const struct rules *rules, const union underlay_address *from)
{
	for (uint32_t i = 0; i < slots; i++)
		if (is_reached_at(&rules->peers[i], from))
			return true;
	return false;
}

/* The counter of the first thing that is wrong, or NULL. */
static uint64_t *judge(struct dp_counters *counters, const struct rules *rules, const struct arrived *arrived, struct look *look,
		       const struct dp_peer **peer)
{
	const struct dp_config *config = rules->config;
	uint32_t overhead = overhead_of(config);
	uint64_t *wrong;

	if (!is_leased(rules, &arrived->from))
		return &counters->drop_receive_unknown_sender;
	if (arrived->len < overhead + 20)
		return &counters->drop_receive_short;
	wrong = overhead ? judge_vxlan(counters, config, arrived->data) : NULL;
	if (wrong)
		return wrong;
	if (!look_at(arrived->data + overhead, arrived->len - overhead, look))
		return &counters->drop_receive_malformed;
	wrong = judge_source(counters, rules, arrived, look, overhead ? arrived->data + 14 : NULL, peer);
	if (!wrong)
		wrong = judge_destination(counters, rules, look);
	if (wrong)
		return wrong;
	if (overhead && merge_ecn(look->traffic_class & 3, arrived->ecn) == 4)
		return &counters->drop_receive_ecn;
	if (judge_checksum(look) == sum_wrong)
		return &counters->drop_receive_checksum;
	return !overhead && look->ttl <= 1 ? &counters->drop_receive_ttl : NULL;
}

static void deliver(struct verdict *verdict, const struct rules *rules, const uint8_t *packet, uint32_t len, uint32_t slot)
{
	record_host(&verdict->host, rules->config, packet, len, slot);
	verdict->counters.rx_packets++;
	verdict->counters.rx_bytes += len;
}

static void judge_datagram(struct verdict *verdict, const struct rules *rules, const struct arrived *arrived, uint32_t told)
{
	static uint8_t copy[packet_max], segment[packet_max];
	const struct dp_config *config = rules->config;
	uint32_t packets = packets_of(config, arrived, told), gso_size, slot;
	const struct dp_peer *peer = NULL;
	struct look look;
	uint64_t *wrong = judge(&verdict->counters, rules, arrived, &look, &peer);

	if (wrong) {
		*wrong += packets;
		if (wrong == &verdict->counters.drop_receive_ttl)
			owe_error(verdict, rules, icmp_ttl_exceeded, &look);
		return;
	}
	slot = (uint32_t)(peer - rules->peers);
	gso_size = segment_size_of(config, &look, told);
	memcpy(copy, look.data, look.len);
	if (overhead_of(config))
		set_ecn(copy, &look, merge_ecn(look.traffic_class & 3, arrived->ecn));
	else
		lower_ttl(copy, &look);
	if (packets == 1 && judge_checksum(&look) == sum_begun)
		cut_finish_checksum(copy, look.len, look.l4, look_checksum_at(&look) - look.l4);
	look.data = copy;
	if (packets == 1)
		deliver(verdict, rules, copy, look.len, slot);
	for (uint32_t i = 0; packets > 1 && i < packets; i++) {
		uint32_t len = cut_segment(segment, &look, gso_size, i);

		deliver(verdict, rules, segment, len, slot);
	}
}

void judge_in(struct verdict *verdict, const struct rules *rules, const struct arrived *arrived)
{
	uint32_t overhead = overhead_of(rules->config), segment = arrived->segment, at = 0;
	struct look look;

	verdict->counters.underlay_datagrams++;
	if (arrived->is_truncated) {
		verdict->counters.drop_receive_truncated++;
		return;
	}
	if (!segment || segment >= arrived->len) {
		judge_datagram(verdict, rules, arrived, 0);
		return;
	}
	/* One UDP super-packet that nobody cut looks as a train does. */
	if (arrived->len > overhead && look_at(arrived->data + overhead, arrived->len - overhead, &look) &&
	    overhead + look.len == arrived->len && look.proto == proto_udp) {
		judge_datagram(verdict, rules, arrived, segment);
		return;
	}
	verdict->counters.underlay_datagrams += (arrived->len - 1) / segment;
	for (; at < arrived->len; at += segment) {
		struct arrived one = *arrived;

		one.data += at;
		one.len = arrived->len - at < segment ? arrived->len - at : segment;
		judge_datagram(verdict, rules, &one, 0);
	}
}
