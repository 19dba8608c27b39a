/* SPDX-License-Identifier: Apache-2.0 */
/* What chance does not bring to test_coalesce.c: packets that came joined, the longest run, an offload forbidden in between. */
#include "receive/coalesce.h"
#include "receive/receive.h"

#include "edges.h"
#include "harness.h"
#include "twin.h"

/* A kernel vxlan on a veth hands over an uncut TCP packet whose checksum is only begun. */
static void uncut_super_packets_are_cut_to_the_mtu(void)
{
	uint32_t sets[] = {DP_OFFLOAD_ALL, 0};

	for (int i = 0; i < 2; i++) {
		struct edges e = open_edges(sets[i]);
		struct twin_spec spec = {
			.version = 4, .proto = proto_tcp, .ttl = 9, .flags = 0x18, .dont_fragment = 1, .ports = {1, 2}, .options = 12,
			.payload = 20000, .source = {10, 5, 2, 9}, .destination = {10, 5, 1, 9},
		};
		static uint8_t super[packet_max], written[packet_max + 64];
		uint32_t len = twin_packet(super, &spec, 5), payload = 0, next = 0;
		ssize_t got;

		store16(super + 36, (uint16_t)twin_pseudo(super, len - 20, proto_tcp));
		receive_train(e.w, e.fib, (struct sockaddr *)&e.peer, super, len, 0, 0);
		coalesce_flush(e.w);
		while ((got = recv(e.tun, written, sizeof(written), MSG_DONTWAIT)) > 0) {
			struct virtio_net_hdr offload;
			struct ip ip;

			memcpy(&offload, written, sizeof(offload));
			CHECK(ip_parse(written + sizeof(offload), (uint32_t)got - sizeof(offload), &ip));
			CHECK(load32(ip.data + 24) == next);
			next += ip.len - 52;
			payload += ip.len - 52;
			if (sets[i]) {
				CHECK(offload.gso_type == VIRTIO_NET_HDR_GSO_TCPV4 && offload.gso_size == 1472 - 52);
			} else {
				CHECK(offload.gso_type == 0 && offload.flags == 0 && ip.len <= 1472);
				CHECK(ip_verify_checksum(&ip) == ip_checksum_good);
			}
		}
		CHECK(payload == 20000);
		close_edges(&e);
	}
}

/* One-byte segments of one flow in one burst: more parts than a single writev takes. */
static void the_longest_run_is_written_whole(void)
{
	enum { packets = 3000 };
	static uint8_t stream[packets][64], written[packet_max + 64];
	struct edges e = open_edges(DP_OFFLOAD_ALL);
	struct twin_spec spec = {
		.version = 4, .proto = proto_tcp, .ttl = 9, .flags = 0x10, .dont_fragment = 1, .ports = {1, 2}, .payload = 1,
		.source = {10, 5, 2, 9}, .destination = {10, 5, 1, 9},
	};
	uint32_t payload = 0;
	ssize_t got;

	for (uint32_t i = 0; i < packets; i++) {
		uint32_t len = twin_packet(stream[i], &spec, (uint8_t)i);

		spec.sequence++;
		receive_train(e.w, e.fib, (struct sockaddr *)&e.peer, stream[i], len, 0, 0);
	}
	coalesce_flush(e.w);
	while ((got = recv(e.tun, written, sizeof(written), MSG_DONTWAIT)) > 0)
		payload += (uint32_t)got - (uint32_t)sizeof(struct virtio_net_hdr) - 40;
	CHECK(payload == packets);
	CHECK(e.w->counters.drop_tun_error == 0 && e.w->counters.rx_packets == packets);
	close_edges(&e);
}

/* Control may take an offload back between two packets, or before their write. */
static void what_was_joined_is_written_after_the_offload_is_forbidden(void)
{
	struct edges e = open_edges(DP_OFFLOAD_ALL);
	static uint8_t packets[3][200], got[packet_max];
	uint32_t len = 0;

	for (uint32_t i = 0; i < 3; i++) {
		struct twin_spec spec = {
			.version = 4, .proto = proto_tcp, .ttl = 60, .flags = 0x10, .dont_fragment = 1, .ports = {1000, 80},
			.sequence = i * 100, .payload = 100, .source = {10, 5, 2, 9}, .destination = {10, 5, 1, 9},
		};

		len = twin_packet(packets[i], &spec, 0);
		receive_train(e.w, e.fib, (const struct sockaddr *)&e.peer, packets[i], len, 0, 0);
	}
	CHECK(dp_forbid(e.dp, DP_OFFLOAD_ALL) == 0);
	coalesce_flush(e.w);
	CHECK(read(e.tun, got, sizeof(got)) == (ssize_t)(sizeof(struct virtio_net_hdr) + len + 200));
	close_edges(&e);
}

int main(void)
{
	harness_begin();
	RUN(uncut_super_packets_are_cut_to_the_mtu);
	RUN(the_longest_run_is_written_whole);
	RUN(what_was_joined_is_written_after_the_offload_is_forbidden);
	return harness_end();
}
