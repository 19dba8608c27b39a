/* SPDX-License-Identifier: Apache-2.0 */
/* What pods and peers would send: streams that go on, with one thing wrong now and then. */
#include "life/steps.h"

enum {
	segments_max = 800, /* that one input makes: over 1,000 inputs a second */
	bytes_max = 100000,
	stream_port = 40000,
};

uint8_t *allot(struct play *play, uint32_t len)
{
	uint8_t *at = play->arena + play->arena_used;

	CHECK(play->arena_used + len <= arena_max);
	play->arena_used += len;
	return at;
}

bool afford(struct play *play, uint32_t segments, uint32_t bytes)
{
	if (play->segments + segments > segments_max || play->bytes + bytes > bytes_max)
		return false;
	play->segments += segments;
	play->bytes += bytes;
	return true;
}

struct item *add_item(struct queue *queue)
{
	CHECK(queue->used < items_max);
	return &queue->item[queue->used++];
}

/* Ends that a packet ought not to have, or only just. */
static void put_odd_end(struct made *made, uint32_t which, uint32_t family, bool is_in)
{
	static const uint8_t groups[4][2][16] = {
		{{224, 0, 0, 1}, {0xff, 2}}, {{255, 255, 255, 255}, {0xfe, 0x80}}, {{0, 0, 0, 1}, {0}}, {{127, 0, 0, 1}, {[15] = 1}},
	};
	struct twin_spec *spec = &made->spec;
	bool six = spec->version == 6;

	switch (which & 7) {
	case 0: case 1:
		memcpy(is_in ? spec->source : spec->destination, hop_address(made->hop, family).bytes, six ? 16 : 4);
		break;
	case 2:
		spec->destination[3] = 255;
		break;
	case 3:
		spec->destination[six ? 1 : 2] = (uint8_t)(which >> 3 & 7);
		break;
	case 4:
		spec->source[six ? 1 : 2] = (uint8_t)(which >> 3 & 7);
		break;
	case 5:
		memcpy(spec->source, groups[which >> 3 & 3][six], 16);
		break;
	case 6: case 7:
		memcpy(spec->destination, groups[which >> 3 & 3][six], 16);
		break;
	}
}

struct made make_spec(struct play *play, bool is_in)
{
	static const uint8_t flags[8] = {0x10, 0x10, 0x18, 0x11, 0x90, 0x12, 0x04, 0x99}, ttls[4] = {64, 64, 2, 1};
	uint32_t what = take8(play), how = take8(play), payload = take16(play);
	uint32_t hop = what >> 2 & 3, flow = what >> 4 & 3, header = 20 + (how & 0x80 ? 12 : 0);
	bool is_odd = payload >= 0xa000 && payload < 0xc000;
	struct made made = {
		.hop = hop,
		.seed = what ^ how,
		.next_sequence = &play->next_sequence[is_in][hop][flow],
		.spec = {
			.version = what & 1 ? 6 : 4, .proto = what & 2 ? proto_udp : proto_tcp, .ttl = ttls[how >> 3 & 3],
			.tos = how >> 5 & 3, .flags = flags[how & 7], .dont_fragment = what >> 6 & 1, .window = 500,
			.ports = {(uint16_t)(stream_port + flow), 80}, .options = how & 0x80 ? 12 : 0,
			.acknowledgement = play->next_sequence[!is_in][hop][flow],
		},
	};
	struct twin_spec *spec = &made.spec;
	uint8_t nets[2] = {1, (uint8_t)(2 + hop)}, *ends[2] = {spec->source, spec->destination};

	for (uint32_t end = 0; end < 2; end++) {
		uint8_t net = nets[is_in ? !end : end];

		memcpy(ends[end], spec->version == 4 ? (uint8_t[16]){10, 5, net, 9} : (uint8_t[16]){0xfd, net, [15] = 9}, 16);
	}
	if (is_in && spec->proto == proto_tcp) {
		spec->ports[0] = 80;
		spec->ports[1] = (uint16_t)(stream_port + flow);
	}
	if (is_odd)
		put_odd_end(&made, payload, play->kernel.dp->config.underlay_family, is_in);
	if (is_odd)
		payload = payload >> 6 & 0x7f;
	else if (payload < 0xc000)
		payload %= 1600;
	else
		payload = (payload - 0xc000) * 4;
	if (payload > packet_max - ipv6_header - header)
		payload = packet_max - ipv6_header - header;
	spec->payload = payload;
	if (what & 0x80)
		*made.next_sequence -= payload;
	spec->sequence = *made.next_sequence;
	spec->id = (uint16_t)(*made.next_sequence >> 4);
	*made.next_sequence += payload;
	return made;
}

/* Make the checksums right for what now stands there. */
static void refit(uint8_t *packet, uint32_t len)
{
	struct look look;
	uint32_t transport_len;

	if (len >= 20 && packet[0] >> 4 == 4 && (packet[0] & 15) >= 5 && (packet[0] & 15) * 4u <= len)
		cut_header_checksum(packet, (packet[0] & 15) * 4u);
	if (!look_at(packet, len, &look) || !look.proto)
		return;
	transport_len = look_transport_len(&look);
	store16(packet + look_checksum_at(&look), 0);
	store16(packet + look_checksum_at(&look), twin_checksum(packet + look.l4, transport_len, look_pseudo(&look, transport_len)));
}

void mutate(struct play *play, uint8_t *data, uint32_t len, uint32_t size, uint32_t overhead)
{
	uint32_t where = take16(play), with = take8(play), at, begin;

	if (!len)
		return;
	if (where & 0x4000)
		at = ((where >> 7 & 63) * size + (where & 0x7f)) % len;
	else
		at = (where & 0x3fff) % len;
	data[at] ^= (uint8_t)with;
	begin = at - at % size + overhead;
	if (where & 0x8000 && begin < len)
		refit(data + begin, len - begin < size - overhead ? len - begin : size - overhead);
}
