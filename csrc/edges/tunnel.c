/* SPDX-License-Identifier: Apache-2.0 */
/* The frame that the TAP takes, and where the virtio-net header points into it:
 *
 *   | virtio-net | Ethernet | outer IP | outer UDP  | encap | inner IP  | TCP or UDP | payload, uncut
 *   | 24 bytes   | not read |          | ^ outer_th |       | ^ inner_nh| ^ csum_start
 *
 * What must stay true: every segment that the kernel makes of it is a datagram that the UDP sockets could have sent:
 * same addresses and ports, a checksum on the outside (receivers join only such: Linux net/ipv4/udp_offload.c,
 * udp_gro_receive), and one that is right on the inside.
 */
#include "edges/tunnel.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/ioctl.h>

#include "edges/tun.h"
#include "packet/checksum.h"

/* Linux 6.17; Debian 12's headers know less than its kernels may. */
enum {
	tun_f_udp_tunnel_gso = 0x80 | 0x100, /* ..._GSO and ..._GSO_CSUM */
	gso_udp_tunnel_ipv4 = 0x20,
	gso_udp_tunnel_ipv6 = 0x40,
	flag_udp_tunnel_csum = 8,
};

/* struct virtio_net_hdr_v1_hash_tunnel, VIRTIO 1.4 section 5.1.6. */
struct tunnel_header {
	struct virtio_net_hdr base;
	uint16_t num_buffers;
	uint32_t hash_value;
	uint16_t hash_report;
	uint16_t padding;
	uint16_t outer_th_offset;
	uint16_t inner_nh_offset;
};

_Static_assert(sizeof(struct tunnel_header) == 24, "the size is what TUNSETVNETHDRSZ is told");

enum {
	outer_ttl = 64,
	outer_headers_max = ethernet_header + ipv6_header + udp_header,
};

uint32_t tunnel_probe(struct dp *dp, uint32_t wanted)
{
	const struct dp_config *config = &dp->config;
	unsigned int offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6 |
				 tun_f_udp_tunnel_gso;
	uint32_t without = wanted & ~(uint32_t)DP_OFFLOAD_TUNNEL_GSO;
	int size = sizeof(struct tunnel_header);

	/* A plain udp peer takes no packet above the MTU, and nothing in its lease tells it from one that does. */
	if (config->backend == DP_BACKEND_UDP)
		return without;
	if (!(wanted & DP_OFFLOAD_TUNNEL_GSO) || !(wanted & DP_OFFLOAD_TUN_GSO) || config->tunnel_fd < 0)
		return without;
	if (ioctl(config->tunnel_fd, TUNSETVNETHDRSZ, &size) < 0 && errno != ENOTTY) /* ENOTTY: as in tun_probe */
		return without;
	if (ioctl(config->tunnel_fd, TUNSETOFFLOAD, offloads) < 0 && errno != ENOTTY)
		return without;
	for (uint32_t i = 0; i < config->sources; i++) {
		socklen_t len = sizeof(dp->source[i]);

		if (getsockname(config->source_fds[i], &dp->source[i].sa, &len) < 0)
			return without;
	}
	return wanted;
}

bool tunnel_fits(const struct worker *w, const struct segmenter *segments)
{
	const struct dp *dp = w->dp;

	/* An IPv6 length does not count its own header, so the IPv4 one is the stricter. */
	return segments->headers + segments->gso_size <= dp->config.mtu &&
	       ipv4_header + udp_header + dp->encap.overhead + segments->ip.len <= packet_max;
}

static uint64_t address_sum(const union underlay_address *source, const union underlay_address *destination, bool is_ipv4)
{
	if (is_ipv4)
		return checksum_sum((const uint8_t *)&source->in.sin_addr, 4) +
		       checksum_sum((const uint8_t *)&destination->in.sin_addr, 4);
	return checksum_sum((const uint8_t *)&source->in6.sin6_addr, 16) +
	       checksum_sum((const uint8_t *)&destination->in6.sin6_addr, 16);
}

static uint8_t *write_ipv4(struct worker *w, uint8_t *at, const union underlay_address *source,
			   const union underlay_address *destination, uint32_t udp_len, uint8_t ecn, uint32_t segments)
{
	memset(at, 0, ipv4_header);
	at[0] = 0x45;
	at[1] = ecn;
	store16(at + 2, (uint16_t)(ipv4_header + udp_len));
	store16(at + 4, w->outer_id);
	w->outer_id = (uint16_t)(w->outer_id + segments);
	at[8] = outer_ttl;
	at[9] = proto_udp;
	memcpy(at + 12, &source->in.sin_addr, 4);
	memcpy(at + 16, &destination->in.sin_addr, 4);
	checksum_store(at + 10, (uint16_t)~checksum_fold(checksum_sum(at, ipv4_header)));
	return at + ipv4_header;
}

static uint8_t *write_ipv6(uint8_t *at, const union underlay_address *source, const union underlay_address *destination,
			   uint32_t udp_len, uint8_t ecn)
{
	store32(at, 6u << 28 | (uint32_t)ecn << 20);
	store16(at + 4, (uint16_t)udp_len);
	at[6] = proto_udp;
	at[7] = outer_ttl;
	memcpy(at + 8, &source->in6.sin6_addr, 16);
	memcpy(at + 24, &destination->in6.sin6_addr, 16);
	return at + ipv6_header;
}

/* The pseudo-header's sum alone: the kernel adds the rest for each segment (CHECKSUM_PARTIAL). */
static void write_udp(uint8_t *at, const union underlay_address *source, const union underlay_address *destination,
		      uint32_t udp_len, bool is_ipv4)
{
	uint64_t sum = address_sum(source, destination, is_ipv4) + checksum_be16(proto_udp) + checksum_be16((uint16_t)udp_len);

	memcpy(at, &source->in.sin_port, 2); /* at the same place in both families */
	memcpy(at + 2, &destination->in.sin_port, 2);
	store16(at + 4, (uint16_t)udp_len);
	checksum_store(at + 6, checksum_fold(sum));
}

static void begin_inner_checksum(const struct ip *ip)
{
	uint64_t sum = ip_pseudo_sum(ip, ip->len - ip->l4);

	checksum_store(ip->data + ip->l4 + ip_checksum_offset(ip), checksum_fold(sum));
}

/* GSO_ECN asks for what segment_next does: CWR stays on the first segment alone. */
static uint8_t inner_gso_type(const struct ip *ip)
{
	bool has_cwr = ip->proto == proto_tcp && ip->data[ip->l4 + tcp_flags_at] & tcp_flag_cwr;

	return has_cwr ? tun_gso_type(ip) | VIRTIO_NET_HDR_GSO_ECN : tun_gso_type(ip);
}

static void give_up(struct worker *w)
{
	if (errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM)
		w->offloads &= ~(uint32_t)DP_OFFLOAD_TUNNEL_GSO;
}

bool tunnel_send(struct worker *w, const struct segmenter *segments, const struct fib_peer *peer, uint32_t source)
{
	const struct dp *dp = w->dp;
	const struct ip *ip = &segments->ip;
	const union underlay_address *from = &dp->source[source], *to = &peer->address;
	bool is_ipv4 = dp->config.underlay_family == 4;
	uint32_t overhead = dp->encap.overhead;
	uint32_t udp_len = udp_header + overhead + ip->len;
	uint8_t ecn = dp->encap.carries_ecn ? ip->ecn : 0;
	uint8_t outer[outer_headers_max] = {0};
	uint8_t *udp;

	if (is_ipv4) {
		store16(outer + 12, ethertype_ipv4);
		udp = write_ipv4(w, outer + ethernet_header, from, to, udp_len, ecn, segment_count(segments));
	} else {
		store16(outer + 12, ethertype_ipv6);
		udp = write_ipv6(outer + ethernet_header, from, to, udp_len, ecn);
	}
	write_udp(udp, from, to, udp_len, is_ipv4);
	begin_inner_checksum(ip);

	uint32_t outer_th = (uint32_t)(udp - outer);
	uint32_t inner_nh = outer_th + udp_header + overhead;
	struct tunnel_header header = {
		.base = {
			.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM | flag_udp_tunnel_csum,
			.gso_type = (uint8_t)(inner_gso_type(ip) | (is_ipv4 ? gso_udp_tunnel_ipv4 : gso_udp_tunnel_ipv6)),
			.hdr_len = (uint16_t)(inner_nh + segments->headers),
			.gso_size = (uint16_t)segments->gso_size,
			.csum_start = (uint16_t)(inner_nh + ip->l4),
			.csum_offset = (uint16_t)ip_checksum_offset(ip),
		},
		.outer_th_offset = (uint16_t)outer_th,
		.inner_nh_offset = (uint16_t)inner_nh,
	};
	struct iovec iov[] = {
		{&header, sizeof(header)},
		{outer, outer_th + udp_header},
		{ip->data - overhead, overhead + ip->len},
	};
	ssize_t put;

	do
		put = writev(dp->config.tunnel_fd, iov, 3);
	while (put < 0 && errno == EINTR);
	if (put < 0) {
		give_up(w);
		return false;
	}
	count(&w->counters.tunnel_sends, 1);
	return true;
}
