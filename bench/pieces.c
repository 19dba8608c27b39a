/* SPDX-License-Identifier: Apache-2.0 */
/* The core's pieces, each run `count` times in a row, for bench/test_pieces.py to time.
 *
 * A packet here is TCP over IPv4 with a right checksum, `size` bytes long, to one of `peers` peers. What must stay true:
 * every call does all the work anew (what a piece changes is put back, and that is cheap beside the piece), and returns
 * something that depends on the work, so that no compiler leaves it out.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "encap/encap.h"
#include "packet/checksum.h"
#include "packet/ip.h"
#include "packet/segment.h"
#include "receive/coalesce.h"
#include "state/forwarder.h"
#include "table/fib.h"

enum {
	mtu = 1450,
	headers = ipv4_header + tcp_header,
	segment_payload = mtu - headers,
	destinations = 4096,
	headroom = encap_overhead_max,
	stride = 2048,
	segments_max = packet_max / segment_payload + 1,
};

struct pieces {
	uint32_t size;
	struct fib *fib;
	struct encap encap;
	struct dp *dp;
	int fds[2];
	uint8_t destination[destinations][4];
	uint8_t datagram[headroom + packet_max + 1]; /* one packet with room for its encap header in front */
	uint8_t other[packet_max + 1];
	uint8_t wire[segments_max * stride];         /* the packet cut to wire size */
	uint8_t wire_headers[segments_max][headers]; /* as they were before they were joined */
	uint32_t wire_len[segments_max];
	uint32_t wires;
};

static const uint8_t vtep_mac[6] = {2, 0, 0, 0, 0, 1};

static void make_packet(uint8_t *at, uint32_t size)
{
	struct ip ip;

	for (uint32_t i = 0; i < size; i++)
		at[i] = (uint8_t)(i * 131 + (i >> 8));
	memset(at, 0, headers);
	at[0] = 0x45;
	store16(at + 2, (uint16_t)size);
	at[8] = 64;
	at[9] = proto_tcp;
	memcpy(at + 12, (uint8_t[]){10, 0, 0, 2}, 4);
	memcpy(at + 16, (uint8_t[]){10, 0, 1, 2}, 4);
	checksum_store(at + 10, (uint16_t)~checksum_fold(checksum_sum(at, ipv4_header)));
	store16(at + 20, 40000);
	store16(at + 22, 5201);
	at[32] = 5 << 4;
	at[33] = 0x10; /* ACK */
	store16(at + 34, 1000);
	if (ip_parse(at, size, &ip)) {
		checksum_store(at + 36, checksum_fold(ip_pseudo_sum(&ip, size - ipv4_header)));
		ip_finish_checksum(at, size, ipv4_header, 16);
	}
}

/* Peer i has 10.x.y.0/24, i counting x.y; peer 0 is ourselves. */
static int make_table(struct pieces *p, uint32_t peers)
{
	struct dp_peer *slots = calloc(peers, sizeof(*slots));
	int code;

	if (slots == NULL)
		return -1;
	for (uint32_t i = 0; i < peers; i++) {
		slots[i] = (struct dp_peer){.prefix_len = 24, .local = i == 0, .vtep_mac = {2, 0, 0, 0, 0, 1}};
		slots[i].prefix = (struct dp_address){4, {10, (uint8_t)(i >> 8), (uint8_t)i, 0}};
		slots[i].next_hop = (struct dp_address){4, {192, 0, (uint8_t)(i >> 8), (uint8_t)i}};
	}
	code = fib_build(slots, peers, 8472, &p->fib);
	free(slots);
	srandom(1);
	for (uint32_t i = 0; i < destinations; i++) {
		uint32_t peer = (uint32_t)random() % peers;

		memcpy(p->destination[i], (uint8_t[]){10, (uint8_t)(peer >> 8), (uint8_t)peer, 2}, 4);
	}
	return code;
}

static int make_forwarder(struct pieces *p)
{
	struct dp_config config = {
		.backend = DP_BACKEND_UDP, .offloads = DP_OFFLOAD_ALL, .vnet_hdr = 1, .port = 8285, .mtu = mtu,
		.underlay_family = 4, .tunnel4 = {4, {10, 0, 0, 0}}, .workers = 1, .sources = 1, .tunnel_fd = -1,
	};

	p->fds[0] = eventfd(0, EFD_CLOEXEC); /* a place for the TUN: a worker could wait for it */
	p->fds[1] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	config.edges[0] = (struct dp_edges){.tuns = 1, .receives = 1, .tun_fds = {p->fds[0]}, .receive_fds = {p->fds[1]}};
	config.source_fds[0] = p->fds[1];
	int error = dp_new(&config, &p->dp);
	int null = open("/dev/null", O_RDWR | O_NONBLOCK | O_CLOEXEC); /* it takes every write */

	if (error || null < 0)
		return error ? error : -errno;
	error = dup3(null, p->fds[0], O_CLOEXEC) < 0 ? -errno : 0;
	close(null);
	return error;
}

static uint64_t cut(struct pieces *p)
{
	struct segmenter segmenter;
	struct ip ip;
	uint64_t sum = 0;

	p->wires = 0;
	if (!ip_parse(p->datagram + headroom, p->size, &ip) || !segment_begin(&segmenter, &ip, segment_payload))
		return 0;
	for (uint32_t size = segment_size(&segmenter); size > 0; size = segment_size(&segmenter)) {
		uint8_t *at = p->wire + (size_t)p->wires * stride;

		segment_next(&segmenter, at);
		p->wire_len[p->wires++] = size;
		sum += at[36];
	}
	return sum;
}

void pieces_free(struct pieces *p)
{
	if (p == NULL)
		return;
	if (p->dp != NULL)
		dp_free(p->dp);
	if (p->fib != NULL)
		fib_free(p->fib);
	close(p->fds[0]);
	close(p->fds[1]);
	free(p);
}

/* size: 41 to 65535 bytes; peers: 2 to 65536. NULL where it cannot be made. */
struct pieces *pieces_new(uint32_t size, uint32_t peers)
{
	struct pieces *p = calloc(1, sizeof(*p));

	if (p == NULL)
		return NULL;
	p->size = size;
	p->fds[0] = p->fds[1] = -1;
	encap_vxlan_init(&p->encap, 1, vtep_mac);
	make_packet(p->datagram + headroom, size);
	if (make_table(p, peers) < 0 || make_forwarder(p) < 0) {
		pieces_free(p);
		return NULL;
	}
	encap_vxlan_push(&p->encap, p->datagram + headroom, 4, fib_lookup(p->fib, p->destination[0], 4));
	cut(p);
	for (uint32_t i = 0; i < p->wires; i++)
		memcpy(p->wire_headers[i], p->wire + (size_t)i * stride, headers);
	return p;
}

uint64_t pieces_checksum(struct pieces *p, uint32_t count)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < count; i++)
		sum += checksum_fold(checksum_sum(p->datagram + headroom, p->size)) + i;
	return sum;
}

uint64_t pieces_checksum_copy(struct pieces *p, uint32_t count)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < count; i++)
		sum += checksum_fold(checksum_copy(p->other, p->datagram + headroom, p->size)) + i;
	return sum;
}

uint64_t pieces_lookup(struct pieces *p, uint32_t count)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < count; i++)
		sum += fib_lookup(p->fib, p->destination[i % destinations], 4)->slot;
	return sum;
}

/* Outward: parse, look the destination up, hash the flow, write the VXLAN header. */
uint64_t pieces_encap(struct pieces *p, uint32_t count)
{
	uint8_t *at = p->datagram + headroom;
	uint64_t sum = 0;
	struct ip ip;

	for (uint32_t i = 0; i < count; i++) {
		if (!ip_parse(at, p->size, &ip))
			return 0;
		encap_vxlan_push(&p->encap, at, 4, fib_lookup(p->fib, p->destination[i % destinations], 4));
		sum += ip_flow_hash(&ip);
	}
	return sum;
}

/* Inward: check the VXLAN header, parse, verify the checksum. */
uint64_t pieces_decap(struct pieces *p, uint32_t count)
{
	uint64_t good = 0;
	struct ip ip;

	for (uint32_t i = 0; i < count; i++)
		good += encap_vxlan_pull(&p->encap, p->datagram) == vxlan_ok && ip_parse(p->datagram + headroom, p->size, &ip) &&
			ip_verify_checksum(&ip) == ip_checksum_good;
	return good;
}

/* A super-packet to wire-size packets with checksums of their own. */
uint64_t pieces_segment(struct pieces *p, uint32_t count)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < count; i++)
		sum += cut(p);
	return sum;
}

/* Those packets back to one super-packet, written to /dev/null; the packets' checksums are taken as verified. */
uint64_t pieces_coalesce(struct pieces *p, uint32_t count)
{
	struct worker *w = p->dp->worker[0];
	static const struct fib_peer peer;
	uint64_t before = w->counters.tun_writes;
	struct ip ip;

	for (uint32_t i = 0; i < count; i++) {
		for (uint32_t k = 0; k < p->wires; k++) {
			uint8_t *at = p->wire + (size_t)k * stride;

			memcpy(at, p->wire_headers[k], headers);
			if (ip_parse(at, p->wire_len[k], &ip))
				coalesce_add(w, &peer, &ip, ip_checksum_good, 0);
		}
		coalesce_flush(w);
	}
	return w->counters.tun_writes - before;
}
