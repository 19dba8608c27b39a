/* SPDX-License-Identifier: Apache-2.0 */
#include "packet/icmp.h"

#include "harness.h"
#include "twin.h"

static const struct dp_address tunnel4 = {4, {10, 5, 1, 0}};
static const struct dp_address tunnel6 = {6, {0xfd, 5, [15] = 1}};

static uint32_t make(uint8_t *packet, struct ip *ip, int version)
{
	struct twin_spec spec = {
		.version = version, .proto = proto_udp, .ttl = 64, .ports = {1000, 53}, .payload = 3000,
		.source = {10, 5, 1, 5}, .destination = {10, 5, 9, 9},
	};
	if (version == 6) {
		memcpy(spec.source, (uint8_t[16]){0xfd, 1, [15] = 1}, 16);
		memcpy(spec.destination, (uint8_t[16]){0xfd, 9, [15] = 9}, 16);
	}

	uint32_t len = twin_packet(packet, &spec, 3);

	CHECK(ip_parse(packet, len, ip));
	return len;
}

static void no_route_is_flannels_byte_for_byte(void)
{
	/* flannel's C proxy wrote this for 10.5.1.5 → 10.5.9.9 (20-byte header and 8 bytes quoted). */
	static const uint8_t expected[28] = {0x45, 0, 0, 0x38, 0, 0, 0, 0, 8, 1, 0x9c, 0xb7, 10, 5, 1, 0, 10, 5, 1, 5, 3, 0};
	uint8_t packet[4000], out[icmp_max];
	struct ip ip;

	make(packet, &ip, 4);
	CHECK(icmp_build(out, icmp_no_route, &ip, &tunnel4, 1472) == 56);
	CHECK(memcmp(out, expected, 22) == 0 && load32(out + 24) == 0);
	CHECK(memcmp(out + 28, packet, 28) == 0);
	CHECK(twin_checksum(out, 20, 0) == 0 && twin_checksum(out + 20, 36, 0) == 0);
}

static void every_error_has_its_type_and_sound_checksums(void)
{
	static const uint8_t types[2][3][2] = {{{3, 0}, {11, 0}, {3, 4}}, {{1, 0}, {3, 0}, {2, 0}}};

	for (int six = 0; six <= 1; six++) {
		for (int error = 0; error < 3; error++) {
			uint8_t packet[4000], out[icmp_max];
			struct ip ip, answer;

			make(packet, &ip, six ? 6 : 4);

			uint32_t len = icmp_build(out, (enum icmp_error)error, &ip, six ? &tunnel6 : &tunnel4, 1400);

			CHECK(len && ip_parse(out, len, &answer) && answer.len == len);
			CHECK(answer.data[answer.l4] == types[six][error][0] && answer.data[answer.l4 + 1] == types[six][error][1]);
			CHECK(!six || len == icmp_max);
			CHECK(twin_checksum(out + answer.l4, len - answer.l4,
					    six ? twin_pseudo(out, len - answer.l4, proto_icmpv6) : 0) == 0);
			if (error == icmp_too_big)
				CHECK((six ? load32(out + 44) : load16(out + 26)) == 1400);
			/* Errors about errors would never end. */
			CHECK(icmp_build(packet, icmp_no_route, &answer, six ? &tunnel6 : &tunnel4, 1400) == 0);
		}
	}
}

static void silence_where_a_router_must_be_silent(void)
{
	uint8_t packet[4000], out[icmp_max];
	struct ip ip;

	make(packet, &ip, 4);
	CHECK(icmp_build(out, icmp_no_route, &ip, &tunnel6, 1400) == 0);
	packet[12] = 224;
	CHECK(icmp_build(out, icmp_no_route, &ip, &tunnel4, 1400) == 0);
	packet[12] = 127;
	CHECK(icmp_build(out, icmp_no_route, &ip, &tunnel4, 1400) == 0);
	make(packet, &ip, 4);
	packet[16] = 255;
	CHECK(icmp_build(out, icmp_no_route, &ip, &tunnel4, 1400) == 0);
	make(packet, &ip, 4);
	packet[7] = 1; /* a later fragment */
	CHECK(icmp_build(out, icmp_no_route, &ip, &tunnel4, 1400) == 0);
}

int main(void)
{
	harness_begin();
	RUN(no_route_is_flannels_byte_for_byte);
	RUN(every_error_has_its_type_and_sound_checksums);
	RUN(silence_where_a_router_must_be_silent);
	return harness_end();
}
