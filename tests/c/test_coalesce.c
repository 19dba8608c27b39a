/* SPDX-License-Identifier: Apache-2.0 */
/* What is joined and then cut again must be, flow by flow, byte for byte and in order, what came in and was sound. */
#include "packet/segment.h"
#include "receive/coalesce.h"
#include "receive/receive.h"

#include "edges.h"
#include "harness.h"
#include "twin.h"

enum {
	flows = 4,
	packets_max = 48,
	packet_room = 2200,
};

static uint8_t sent[packets_max][packet_room], given[packets_max][packet_room];
static uint32_t sent_len[packets_max];
static bool sound[packets_max];

static uint32_t flow_of(const uint8_t *packet)
{
	return load16(packet + (packet[0] >> 4 == 4 ? 20 : 40)); /* source port */
}

/* A burst of a few flows: mostly what joins, now and then what must not. */
static uint32_t make_burst(void)
{
	static struct twin_spec state[flows];
	uint32_t segment[flows], count = 1 + random_below(packets_max);

	for (uint32_t f = 0; f < flows; f++) {
		state[f] = (struct twin_spec){
			.version = random_below(2) ? 4 : 6, .proto = random_below(3) ? proto_tcp : proto_udp, .ttl = 60, .flags = 0x10,
			.dont_fragment = random_below(3) != 0, .id = (uint16_t)random64(), .ports = {(uint16_t)(1000 + f), 80},
			.sequence = random_below(4) ? (uint32_t)random64() : UINT32_MAX - 3000, .window = 500, .options = 12,
		};
		memcpy(state[f].source, state[f].version == 4 ? (uint8_t[16]){10, 5, 2, 9} : (uint8_t[16]){0xfd, 2, [15] = 9}, 16);
		memcpy(state[f].destination, state[f].version == 4 ? (uint8_t[16]){10, 5, 1, 9} : (uint8_t[16]){0xfd, 1, [15] = 9}, 16);
		segment[f] = 1 + random_below(1300);
	}
	for (uint32_t i = 0; i < count; i++) {
		uint32_t f = random_below(1 + random_below(flows));
		struct twin_spec *flow = &state[f], spec;

		spec = *flow;
		spec.payload = random_below(12) ? segment[f] : random_below(segment[f] + 100);
		switch (random_below(40)) {
		case 0: spec.flags |= 0x08; break;              /* PSH */
		case 1: spec.flags |= 0x01; break;              /* FIN */
		case 2: flow->window++; spec.window++; break;
		case 3: flow->acknowledgement++; spec.acknowledgement++; break;
		case 4: spec.ttl--; break;
		case 5: flow->tos = spec.tos = 4; break;
		case 6: spec.options = 24; break;
		case 7: spec.sequence += 77; break;             /* a hole */
		case 8: spec.id += 9; break;
		case 9: spec.payload = 0; break;
		case 10: spec.flags |= 0x20; break;             /* URG */
		case 11: spec.flags |= 0x80; break;             /* CWR */
		case 12: spec.dont_fragment = !spec.dont_fragment; break;
		}
		sent_len[i] = twin_packet(sent[i], &spec, (uint8_t)random64());
		flow->sequence += spec.payload;
		flow->id++;
		sound[i] = true;
		if (i && random_below(30) == 0) { /* a duplicate */
			memcpy(sent[i], sent[i - 1], packet_room);
			sent_len[i] = sent_len[i - 1];
			sound[i] = sound[i - 1];
		} else if (random_below(30) == 0 && spec.payload) { /* damage that a checksum finds */
			struct ip ip;

			sent[i][sent_len[i] - 1] ^= 0x40;
			sound[i] = false;
			/* One in 65,536 looks like a checksum that is only begun, and is let through (docs/decisions/0004). */
			if (ip_parse(sent[i], sent_len[i], &ip) && ip_verify_checksum(&ip) == ip_checksum_partial) {
				sent[i][sent_len[i] - 1] ^= 0x40;
				sound[i] = true;
			}
		} else if (random_below(60) == 0) {
			sent_len[i]--;
			sound[i] = false;
		}
	}
	if (random_below(3) == 0 && count > 2) { /* reordered */
		uint32_t a = random_below(count - 1);
		uint8_t packet[packet_room];
		uint32_t len = sent_len[a];
		bool is_sound = sound[a];

		memcpy(packet, sent[a], packet_room);
		memcpy(sent[a], sent[a + 1], packet_room);
		sent_len[a] = sent_len[a + 1];
		sound[a] = sound[a + 1];
		memcpy(sent[a + 1], packet, packet_room);
		sent_len[a + 1] = len;
		sound[a + 1] = is_sound;
	}
	return count;
}

/* With DF an IPv4 ID means nothing (RFC 6864), so a cut may number afresh: leave it out of the comparison. */
static void forget_id(uint8_t *packet)
{
	if (packet[0] == 0x45 && (packet[6] & 0x40)) {
		memset(packet + 4, 0, 2);
		memset(packet + 10, 0, 2);
	}
}

/* The next sound packet of the flow must be this one (but for the hop that udp counts). */
static void expect(uint32_t count, uint8_t *packet, uint32_t len)
{
	for (uint32_t i = 0; i < count; i++) {
		struct ip ip;

		if (!sound[i] || flow_of(sent[i]) != flow_of(packet))
			continue;
		sound[i] = false; /* taken */
		CHECK(ip_parse(sent[i], sent_len[i], &ip));
		ip_decrement_ttl(&ip);
		forget_id(sent[i]);
		forget_id(packet);
		CHECK(len == sent_len[i] && memcmp(packet, sent[i], len) == 0);
		return;
	}
	CHECK(!"a packet came out that never went in");
}

/* What the kernel does with a TUN write: cut where a GSO size says so, finish the checksum where it is left. */
static void take_write(uint32_t count, uint8_t *data, uint32_t len, uint32_t *joined)
{
	static uint8_t one[packet_max];
	struct virtio_net_hdr offload;
	struct segmenter segments;
	uint32_t size;
	struct ip ip;

	memcpy(&offload, data, sizeof(offload));
	data += sizeof(offload);
	len -= (uint32_t)sizeof(offload);
	CHECK(ip_parse(data, len, &ip) && ip.len == len);
	if (offload.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		CHECK(offload.csum_start == ip.l4 && offload.csum_offset == ip_checksum_offset(&ip));
		/* One time in 65,536 what is only begun is also what it will be. */
		CHECK(ip_verify_checksum(&ip) == ip_checksum_partial || ip_verify_checksum(&ip) == ip_checksum_good);
	}
	if (offload.gso_type == VIRTIO_NET_HDR_GSO_NONE) {
		if (offload.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
			ip_finish_checksum(data, len, offload.csum_start, offload.csum_offset);
		expect(count, data, len);
		return;
	}
	CHECK(offload.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM);
	CHECK(segment_begin(&segments, &ip, offload.gso_size) && offload.hdr_len == segments.headers);
	while ((size = segment_size(&segments)) > 0) {
		segment_next(&segments, one);
		expect(count, one, size);
		(*joined)++;
	}
}

static void play(uint32_t offloads, int rounds, bool must_join)
{
	struct edges e = open_edges(offloads);
	static uint8_t written[packet_max + 64];
	uint32_t joined = 0;

	for (int round = 0; round < rounds; round++) {
		uint32_t count = make_burst(), sound_before = 0, left = 0;
		struct dp_counters before = e.w->counters;
		ssize_t got;

		memcpy(given, sent, sizeof(given));
		for (uint32_t i = 0; i < count; i++) {
			sound_before += sound[i];
			receive_train(e.w, e.fib, (struct sockaddr *)&e.peer, given[i], sent_len[i], 0, 0);
		}
		coalesce_flush(e.w);
		while ((got = recv(e.tun, written, sizeof(written), MSG_DONTWAIT)) > 0)
			take_write(count, written, (uint32_t)got, &joined);
		for (uint32_t i = 0; i < count; i++)
			left += sound[i];
		CHECK(left == 0);
		CHECK(e.w->counters.rx_packets - before.rx_packets == sound_before);
		CHECK(e.w->counters.drop_receive_checksum + e.w->counters.drop_receive_malformed - before.drop_receive_checksum -
			      before.drop_receive_malformed ==
		      count - sound_before);
		CHECK(e.w->counters.drop_tun_full == 0 && e.w->counters.drop_tun_error == 0);
	}
	CHECK(!must_join || joined > (uint32_t)rounds);
	CHECK(must_join || joined == 0);
	close_edges(&e);
}

static void joined_packets_cut_again_are_what_came(void)
{
	play(DP_OFFLOAD_ALL, 4000, true);
}

static void without_udp_offload(void)
{
	play(DP_OFFLOAD_ALL & ~DP_OFFLOAD_TUN_USO, 1000, true);
}

static void the_plain_twin_joins_nothing(void)
{
	play(DP_OFFLOAD_ALL & ~DP_OFFLOAD_COALESCE, 500, false);
	play(0, 500, false);
}

int main(void)
{
	harness_begin();
	RUN(joined_packets_cut_again_are_what_came);
	RUN(without_udp_offload);
	RUN(the_plain_twin_joins_nothing);
	return harness_end();
}
