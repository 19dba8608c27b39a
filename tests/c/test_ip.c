/* SPDX-License-Identifier: Apache-2.0 */
#include "packet/ip.h"

#include "harness.h"
#include "twin.h"

static const struct twin_spec tcp4 = {
	.version = 4, .proto = proto_tcp, .ttl = 64, .flags = 0x10, .ports = {1, 2}, .options = 12, .payload = 100,
	.source = {10, 244, 1, 5}, .destination = {10, 244, 2, 7},
};

/* Exactly as long as the packet, so that the sanitizer sees a read behind it. */
static uint8_t *exactly(const uint8_t *data, uint32_t len)
{
	uint8_t *out = malloc(len ? len : 1);

	CHECK(out);
	memcpy(out, data, len);
	return out;
}

static void truncated_at_every_byte_is_refused(void)
{
	for (int version = 4; version <= 6; version += 2) {
		struct twin_spec spec = tcp4;
		uint8_t packet[400];
		struct ip ip;

		spec.version = version;
		uint32_t len = twin_packet(packet, &spec, 1);

		for (uint32_t cut = 0; cut < len; cut++) {
			uint8_t *part = exactly(packet, cut);

			CHECK(!ip_parse(part, cut, &ip));
			free(part);
		}
		CHECK(ip_parse(packet, len, &ip));
		CHECK(ip.len == len && ip.proto == proto_tcp && !ip.fragment);
		CHECK(ip_parse(packet, sizeof(packet), &ip) && ip.len == len); /* padding behind is not the packet's */
	}
}

static void random_bytes_never_lead_outside(void)
{
	for (int i = 0; i < 300000; i++) {
		uint32_t len = random_below(120);
		uint8_t raw[120];
		struct ip ip;

		random_fill(raw, len);
		if (len >= 40 && i % 2) { /* let the header pass, so that the transport is reached */
			raw[0] = i % 4 == 1 ? 0x45 : 0x60;
			store16(raw + (raw[0] == 0x45 ? 2 : 4), (uint16_t)(raw[0] == 0x45 ? len : len - 40));
			if (raw[0] == 0x45) {
				raw[6] &= 0x40;
				raw[7] = 0;
				raw[9] = (uint8_t)(i % 3 ? proto_tcp : proto_udp);
				store16(raw + 10, 0);
				store16(raw + 10, twin_checksum(raw, 20, 0));
			} else {
				raw[6] = (uint8_t[]){0, 6, 17, 43, 44, 60, 58}[random_below(7)];
			}
		}

		uint8_t *packet = exactly(raw, len);

		if (ip_parse(packet, len, &ip)) {
			CHECK(ip.len <= len && ip.l4 <= ip.len && ip.header_len <= ip.len);
			ip_verify_checksum(&ip);
			ip_flow_hash(&ip);
			if (ip_ttl(&ip))
				ip_decrement_ttl(&ip);
			ip_set_ecn(&ip, ecn_ce);
		}
		free(packet);
	}
}

static void ttl_keeps_flannels_checksums(void)
{
	/* Header checksum before and after one decrement: flannel's own C code gave these. */
	static const uint16_t vectors[][2] = {{0xfeff, 0x0000}, {0xfefe, 0xfffe}, {0xff00, 0x0001}, {0x0000, 0x0100}, {0x23b3, 0x24b3}};

	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		uint8_t packet[20] = {0x45, [8] = 64};
		struct ip ip = {.data = packet, .len = 20, .version = 4};

		store16(packet + 10, vectors[i][0]);
		ip_decrement_ttl(&ip);
		CHECK(packet[8] == 63 && load16(packet + 10) == vectors[i][1]);
	}
}

static void sound_headers_stay_sound(void)
{
	for (int i = 0; i < 20000; i++) {
		struct twin_spec spec = tcp4;
		uint8_t packet[400];
		struct ip ip;

		random_fill(spec.source, 4);
		random_fill(spec.destination, 4);
		spec.id = (uint16_t)random64();
		spec.tos = (uint8_t)random64();
		spec.ttl = (uint8_t)(2 + random_below(254));

		uint32_t len = twin_packet(packet, &spec, (uint8_t)i);

		CHECK(ip_parse(packet, len, &ip));
		ip_decrement_ttl(&ip);
		CHECK(ip_parse(packet, len, &ip) && ip_ttl(&ip) == spec.ttl - 1);
		ip_set_ecn(&ip, (uint8_t)random_below(4));
		CHECK(twin_checksum(packet, 20, 0) == 0);
		CHECK(ip_parse(packet, len, &ip));
	}
}

static void transport_checksums_are_told_apart(void)
{
	for (int i = 0; i < 4000; i++) {
		struct twin_spec spec = tcp4;
		uint8_t packet[400];
		struct ip ip;

		spec.version = i % 2 ? 4 : 6;
		spec.proto = i % 4 < 2 ? proto_tcp : proto_udp;
		spec.payload = 1 + random_below(200);
		spec.sequence = (uint32_t)random64();

		uint32_t len = twin_packet(packet, &spec, (uint8_t)i);

		CHECK(ip_parse(packet, len, &ip) && ip_verify_checksum(&ip) == ip_checksum_good);

		uint32_t hit = ip.l4 + random_below(len - ip.l4 - 1);
		uint8_t *field = packet + ip.l4 + ip_checksum_offset(&ip);

		/* Of one packet in 65,536 the whole sum is the pseudo-header's too, and nothing can be told apart. */
		if (load16(field) == (uint16_t)twin_pseudo(packet, len - ip.l4, spec.proto))
			continue;
		if (packet + hit < field || packet + hit > field + 1) {
			/* One damaged byte outside the length fields, which the parser itself would refuse. */
			if (!(spec.proto == proto_udp && (hit == ip.l4 + 4u || hit == ip.l4 + 5u)) &&
			    !(spec.proto == proto_tcp && hit == ip.l4 + 12u)) {
				packet[hit] ^= 0x5a;
				CHECK(ip_parse(packet, len, &ip) && ip_verify_checksum(&ip) == ip_checksum_bad);
				packet[hit] ^= 0x5a;
			}
		}
		store16(field, (uint16_t)twin_pseudo(packet, len - ip.l4, spec.proto));
		CHECK(ip_verify_checksum(&ip) == ip_checksum_partial);
		ip_finish_checksum(packet, len, ip.l4, ip_checksum_offset(&ip));
		CHECK(ip_verify_checksum(&ip) == ip_checksum_good);
	}
}

/* Who finishes it would sum what is behind the datagram too. */
static void a_begun_checksum_covers_the_packet(void)
{
	struct twin_spec spec = tcp4;
	uint8_t packet[400];
	struct ip ip;

	spec.proto = proto_udp;
	spec.payload = 64;

	uint32_t len = twin_packet(packet, &spec, 1);

	store16(packet + 24, 12);
	store16(packet + 26, (uint16_t)twin_pseudo(packet, 12, proto_udp));
	CHECK(ip_parse(packet, len, &ip) && ip.proto == proto_udp && ip_verify_checksum(&ip) == ip_checksum_bad);
}

static void icmp_is_its_familys(void)
{
	for (int i = 0; i < 4; i++) {
		struct twin_spec spec = tcp4;
		bool six = i & 1, icmpv6 = i & 2;
		uint8_t packet[400];
		struct ip ip;

		spec.version = six ? 6 : 4;

		uint32_t len = twin_packet(packet, &spec, 1);

		packet[six ? 6 : 9] = icmpv6 ? proto_icmpv6 : proto_icmp;
		packet[six ? 40 : 20] = 5;
		if (!six) {
			store16(packet + 10, 0);
			store16(packet + 10, twin_checksum(packet, 20, 0));
		}
		CHECK(ip_parse(packet, len, &ip) && ip.icmp_type == (six == icmpv6 ? 5 : -1));
	}
}

static void group_addresses(void)
{
	CHECK(ip_is_group((uint8_t[]){224, 0, 0, 1}, 4));
	CHECK(ip_is_group((uint8_t[]){255, 255, 255, 255}, 4));
	CHECK(ip_is_group((uint8_t[]){0, 0, 0, 0}, 4));
	CHECK(!ip_is_group((uint8_t[]){10, 244, 1, 0}, 4));
	CHECK(ip_is_group((uint8_t[16]){0xff, 2}, 6));
	CHECK(ip_is_group((uint8_t[16]){0xfe, 0x80, [15] = 1}, 6));
	CHECK(ip_is_group((uint8_t[16]){0}, 6));
	CHECK(!ip_is_group((uint8_t[16]){0xfd, [15] = 1}, 6));
}

static void the_answers_reverse_hash_is_the_flows(void)
{
	for (int i = 0; i < 2000; i++) {
		struct twin_spec spec = tcp4, answer;
		uint8_t packet[200], back[200];
		struct ip ip, reply;

		spec.version = i % 2 ? 4 : 6;
		spec.proto = i % 4 < 2 ? proto_tcp : proto_udp;
		random_fill(spec.source, 16);
		random_fill(spec.destination, 16);
		spec.ports[0] = (uint16_t)random64();
		spec.ports[1] = (uint16_t)(spec.ports[0] + 1 + random_below(1000));
		answer = spec;
		memcpy(answer.source, spec.destination, 16);
		memcpy(answer.destination, spec.source, 16);
		answer.ports[0] = spec.ports[1];
		answer.ports[1] = spec.ports[0];
		CHECK(ip_parse(packet, twin_packet(packet, &spec, 1), &ip) && ip_parse(back, twin_packet(back, &answer, 2), &reply));
		CHECK(ip_reverse_hash(&reply) == ip_flow_hash(&ip) && ip_reverse_hash(&ip) == ip_flow_hash(&reply));
		CHECK(ip_reverse_hash(&ip) != ip_flow_hash(&ip));
	}
}

int main(void)
{
	harness_begin();
	RUN(truncated_at_every_byte_is_refused);
	RUN(random_bytes_never_lead_outside);
	RUN(ttl_keeps_flannels_checksums);
	RUN(sound_headers_stay_sound);
	RUN(transport_checksums_are_told_apart);
	RUN(a_begun_checksum_covers_the_packet);
	RUN(icmp_is_its_familys);
	RUN(group_addresses);
	RUN(the_answers_reverse_hash_is_the_flows);
	return harness_end();
}
