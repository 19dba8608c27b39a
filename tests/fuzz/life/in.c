/* SPDX-License-Identifier: Apache-2.0 */
/* A peer's datagrams, as a socket gives them. */
#include "life/steps.h"

static const uint8_t own_mac[6] = {2, 0, 0, 0, 0, 1};

static uint32_t put_encap(uint8_t *out, uint32_t version, uint32_t mac)
{
	if (!overhead_of(&kernel->dp->config))
		return 0;
	memcpy(out, (uint8_t[8]){8, 0, 0, 0, 0, 0, 1, 0}, 8);
	memcpy(out + 8, own_mac, 6);
	memcpy(out + 14, (uint8_t[6]){2, 0, 0, 0, 0, (uint8_t)mac}, 6);
	store16(out + 20, version == 4 ? 0x0800 : 0x86dd);
	return vxlan_overhead;
}

/* What the kernel hands over of a train: to a socket that did not ask for trains, its datagrams; but a UDP super-packet that nobody
 * cut looks as one, and stays whole.
 */
static void offer_in(struct play *play, const struct item *train)
{
	struct queue *queue = &play->kernel.underlay[play->queue];
	struct arrived arrived = {train->from, train->data, train->len, train->segment > 0 ? (uint32_t)train->segment : 0,
				  train->ecn, train->truncated};
	uint32_t overhead = play->kernel.dp->encap.overhead, segment = arrived.segment;
	bool is_train = segment && segment < train->len && !train->truncated;
	struct look look;
	bool is_whole = train->len > overhead && look_at(train->data + overhead, train->len - overhead, &look) &&
			overhead + look.len == train->len && look.proto == proto_udp;

	judge_in(&play->verdict, &play->rules, &arrived);
	if (!is_train || is_whole || play->kernel.dp->offloads & DP_OFFLOAD_UDP_GRO) {
		*add_item(queue) = *train;
		return;
	}
	for (uint32_t at = 0; at < train->len; at += segment) {
		struct item *item = add_item(queue);

		*item = *train;
		item->data = train->data + at;
		item->len = train->len - at < segment ? train->len - at : segment;
		item->segment = 0;
	}
}

static union underlay_address make_sender(uint32_t hop, uint32_t family)
{
	struct dp_address address = hop_address(hop, family);
	union underlay_address from = {0};

	if (family == 4) {
		from.in.sin_family = AF_INET;
		memcpy(&from.in.sin_addr, address.bytes, 4);
	} else {
		from.in6.sin6_family = AF_INET6;
		memcpy(&from.in6.sin6_addr, address.bytes, 16);
	}
	return from;
}

/* Packets of one stream in one train, all but the last of one size. */
static uint32_t fill_train(uint8_t *out, const struct made *made, uint32_t packets, uint32_t how)
{
	struct twin_spec spec = made->spec;
	uint32_t len = 0;

	for (uint32_t i = 0; i < packets; i++) {
		uint32_t encap = put_encap(out + len, (uint32_t)spec.version, 2 + made->hop);
		uint8_t *packet = out + len + encap, *l4;

		if (i && i + 1 == packets && how & 0x10)
			spec.payload /= 2;

		uint32_t size = twin_packet(packet, &spec, (uint8_t)(made->seed + i));

		if (how & 0x20) { /* left to a device that there was none of */
			l4 = packet + (spec.version == 4 ? ipv4_header : ipv6_header);
			store16(l4 + (spec.proto == proto_tcp ? 16 : 6),
				(uint16_t)twin_pseudo(packet, size - (uint32_t)(l4 - packet), spec.proto));
		}
		if (i)
			*made->next_sequence += spec.payload;
		spec.sequence += spec.payload;
		spec.id++;
		len += encap + size;
	}
	return len;
}

/* The kernel joins no more datagrams (UDP_GRO_CNT_MAX). */
static uint32_t as_joined(uint32_t segment, uint32_t len)
{
	return segment && len / segment >= train_segments ? len / train_segments + 1 : segment;
}

void step_in(struct play *play, bool is_raw)
{
	uint32_t how = take8(play), more = take8(play), packets = (1 + (how & 15)) * (more & 0x10 ? 4 : 1), len, segment = 0, family;
	uint32_t hop = more & 3, overhead = play->kernel.dp->encap.overhead;
	struct item item = {.ecn = more >> 2 & 3, .truncated = (more & 0xf0) == 0xf0};
	uint8_t *data;

	if (is_raw) {
		len = take16(play);
		segment = take16(play);
		if (len > (uint32_t)(play->end - play->at))
			len = (uint32_t)(play->end - play->at);
		segment = as_joined(segment, len);
		if (!afford(play, segment ? 1 + len / segment : 1, len))
			return;
		data = allot(play, len);
		memcpy(data, play->at, len);
		play->at += len;
	} else {
		struct made made = make_spec(play, true);
		uint32_t one = vxlan_overhead + ipv6_header + tcp_header + made.spec.options + made.spec.payload;
		uint32_t most = packet_max / one ? packet_max / one : 1;

		packets = packets < most ? packets : most;
		if (one > packet_max || !afford(play, packets * (1 + one / (play->kernel.dp->config.mtu / 2)), packets * one))
			return;
		data = allot(play, packets * one);
		len = fill_train(data, &made, packets, how);
		segment = packets > 1 ? overhead + (made.spec.version == 4 ? 20u : 40u) +
						(made.spec.proto == proto_tcp ? 20u + made.spec.options : 8u) + made.spec.payload
				      : 0;
		if (packets == 1 && made.spec.proto == proto_udp && how & 0x10) /* an uncut super-packet */
			segment = 1 + take16(play) % 1500;
		hop = made.hop ^ (how & 0x40 ? more & 3 : 0);
	}
	segment = as_joined(segment, len);
	if (how & 0x80)
		mutate(play, data, len, packets > 1 && segment && segment > overhead ? segment : len, overhead);
	family = play->kernel.dp->config.underlay_family;
	item.from = make_sender(hop, family);
	item.data = data;
	item.len = len;
	item.segment = segment == 0xffff ? -1 : (int)segment;
	offer_in(play, &item);
}
