/* SPDX-License-Identifier: Apache-2.0 */
/* What must come of a pod's packet. */
#include "verdict/both.h"

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

enum {
	tcp_least = 8,  /* bytes that a segment carries at least; README of csrc: a bounded burst */
	udp_most = 128, /* segments of one UDP super-packet (Linux UDP_MAX_SEGMENTS) */
};

static bool is_sound_super(const struct look *look, const struct virtio_net_hdr *offload)
{
	uint32_t type = offload->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;

	if (!look->proto || look->len <= look_headers(look) || look_headers(look) > headers_most)
		return false;
	if (look->proto == proto_tcp)
		return (type == VIRTIO_NET_HDR_GSO_TCPV4 || type == VIRTIO_NET_HDR_GSO_TCPV6) && offload->gso_size >= tcp_least;
	return type == VIRTIO_NET_HDR_GSO_UDP_L4 && offload->gso_size && cut_count(look, offload->gso_size) <= udp_most;
}

static bool is_checksum_inside(const struct look *look, const struct virtio_net_hdr *offload)
{
	return offload->csum_start >= look->ip_header && offload->csum_start + offload->csum_offset + 2u <= look->len;
}

static void send_out(struct verdict *verdict, const struct rules *rules, const uint8_t *packet, uint32_t len, uint8_t version,
		     uint8_t traffic_class, const struct dp_peer *peer)
{
	static uint8_t datagram[vxlan_bytes + packet_max];
	const struct dp_config *config = rules->config;
	uint32_t overhead = overhead_of(config);
	union underlay_address to = {0};

	if (overhead) {
		memset(datagram, 0, 8);
		datagram[0] = 8;
		store32(datagram + 4, config->vni << 8);
		memcpy(datagram + 8, peer->vtep_mac, 6);
		memcpy(datagram + 14, config->vtep_mac, 6);
		store16(datagram + 20, version == 4 ? 0x0800 : 0x86dd);
	}
	memcpy(datagram + overhead, packet, len);
	if (peer->next_hop.family == 4) {
		to.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)config->port)};
		memcpy(&to.in.sin_addr, peer->next_hop.bytes, 4);
	} else {
		to.in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)config->port)};
		memcpy(&to.in6.sin6_addr, peer->next_hop.bytes, 16);
	}
	record_wire(&verdict->wire, &to, overhead ? traffic_class & 3 : 0, datagram, overhead + len, overhead, 0,
		    (uint32_t)(peer - rules->peers));
	verdict->counters.tx_packets++;
	verdict->counters.tx_bytes += len;
}

void judge_out(struct verdict *verdict, const struct rules *rules, const uint8_t *data, uint32_t len,
	       const struct virtio_net_hdr *offload)
{
	static uint8_t copy[packet_max], segment[packet_max];
	struct dp_counters *counters = &verdict->counters;
	const struct dp_config *config = rules->config;
	const struct dp_peer *peer;
	bool is_super = offload && offload->gso_type != VIRTIO_NET_HDR_GSO_NONE, is_hop = config->backend == DP_BACKEND_UDP;
	uint32_t packets, largest;
	struct look look;

	if (!look_at(data, len, &look) || look.len != len) {
		counters->tun_packets++;
		counters->drop_send_malformed++;
		return;
	}
	packets = is_super ? cut_count(&look, offload->gso_size) : 1;
	counters->tun_packets += packets;
	if (is_nobodys(look_destination(&look), look.version)) {
		counters->drop_send_multicast += packets;
		return;
	}
	peer = find_holder(rules, look_destination(&look), look.version);
	if (!peer || peer->local) {
		counters->drop_send_no_route += packets;
		owe_error(verdict, rules, icmp_no_route, &look);
		return;
	}
	if (is_hop && look.ttl <= 1) {
		counters->drop_send_ttl += packets;
		owe_error(verdict, rules, icmp_ttl_exceeded, &look);
		return;
	}
	memcpy(copy, data, len);
	look.data = copy;
	if (is_super && !is_sound_super(&look, offload)) {
		counters->drop_send_gso += packets;
		return;
	}
	if (offload && !is_super && offload->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		if (!is_checksum_inside(&look, offload)) {
			counters->drop_send_gso++;
			return;
		}
		cut_finish_checksum(copy, len, offload->csum_start, offload->csum_offset);
	}
	largest = is_super ? look_headers(&look) + offload->gso_size : len;
	if (largest > config->mtu && look.may_not_fragment) {
		counters->drop_send_too_big += packets;
		owe_error(verdict, rules, icmp_too_big, &look);
		return;
	}
	if (is_hop)
		lower_ttl(copy, &look);
	if (!is_super) {
		send_out(verdict, rules, copy, len, look.version, look.traffic_class, peer);
		return;
	}
	for (uint32_t i = 0; i < packets; i++) {
		len = cut_segment(segment, &look, offload->gso_size, i);
		send_out(verdict, rules, segment, len, look.version, look.traffic_class, peer);
	}
}
