/* SPDX-License-Identifier: Apache-2.0 */
#include "packet/segment.h"

#include "harness.h"
#include "twin.h"

static uint8_t super[70000], out[70000], expected[70000];

static struct twin_spec random_spec(void)
{
	struct twin_spec spec = {
		.version = random_below(2) ? 4 : 6,
		.proto = random_below(2) ? proto_tcp : proto_udp,
		.ttl = 64,
		.tos = (uint8_t)random64(),
		.flags = (uint8_t)(0x10 | (random64() & 0x89)), /* ACK with any of FIN, PSH, CWR */
		.dont_fragment = (int)random_below(2),
		.id = (uint16_t)random64(),
		.ports = {1, 2},
		.sequence = (uint32_t)random64(),
		.window = 500,
		.options = 4 * random_below(11),
	};

	random_fill(spec.source, 16);
	random_fill(spec.destination, 16);
	return spec;
}

/* Every segment equals the packet that a sender without segmentation offload would have made. */
static void segments_equal_packets_made_one_by_one(void)
{
	for (int round = 0; round < 3000; round++) {
		struct twin_spec spec = random_spec(), one;
		uint32_t gso_size = 1 + random_below(1500), left, sequence = spec.sequence;
		struct segmenter s;
		struct ip ip;

		spec.payload = 1 + random_below(round % 10 ? 9000 : 65000);

		uint32_t len = twin_packet(super, &spec, 0);
		uint32_t headers = len - spec.payload;

		random_fill(super + headers, spec.payload);
		CHECK(ip_parse(super, len, &ip));
		CHECK(segment_begin(&s, &ip, gso_size));
		one = spec;
		left = spec.payload;
		for (uint32_t index = 0; left; index++) {
			uint32_t payload = left < gso_size ? left : gso_size;

			one.payload = payload;
			one.id = (uint16_t)(spec.id + index);
			one.sequence = sequence;
			one.flags = spec.flags;
			if (left != payload)
				one.flags &= (uint8_t)~0x09;
			if (index)
				one.flags &= (uint8_t)~0x80;

			uint32_t size = twin_packet(expected, &one, 0);

			/* The twin's checksum is over its own payload: put ours in and let it count again. */
			memcpy(expected + headers, super + headers + (spec.payload - left), payload);
			uint8_t *field = expected + ip.l4 + (spec.proto == proto_tcp ? 16 : 6);
			store16(field, 0);
			uint16_t sum = twin_checksum(expected + ip.l4, size - ip.l4, twin_pseudo(expected, size - ip.l4, spec.proto));
			store16(field, sum || spec.proto == proto_tcp ? sum : 0xffff);

			CHECK(segment_size(&s) == size);
			segment_next(&s, out);
			CHECK(memcmp(out, expected, size) == 0);
			left -= payload;
			sequence += payload;
		}
		CHECK(segment_size(&s) == 0);
	}
}

static void what_cannot_be_cut_is_refused(void)
{
	struct twin_spec spec = {.version = 4, .proto = proto_tcp, .ttl = 1, .payload = 100};
	struct segmenter s;
	struct ip ip;
	uint32_t len = twin_packet(super, &spec, 0);

	CHECK(ip_parse(super, len, &ip));
	CHECK(!segment_begin(&s, &ip, 0));
	ip.proto = proto_icmp;
	CHECK(!segment_begin(&s, &ip, 10));
	spec.payload = 0;
	len = twin_packet(super, &spec, 0);
	CHECK(ip_parse(super, len, &ip));
	CHECK(!segment_begin(&s, &ip, 10));
}

int main(void)
{
	harness_begin();
	RUN(segments_equal_packets_made_one_by_one);
	RUN(what_cannot_be_cut_is_refused);
	return harness_end();
}
