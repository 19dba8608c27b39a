/* SPDX-License-Identifier: Apache-2.0 */
/* Inner IP packets: parsed once, then every stage works from the parse. */
#ifndef IP_H
#define IP_H

#include "packet/packet.h"

enum {
	proto_icmp = 1,
	proto_tcp = 6,
	proto_udp = 17,
	proto_icmpv6 = 58,
};

enum {
	tcp_flags_at = 13, /* in the TCP header */
	tcp_flag_fin = 0x01,
	tcp_flag_psh = 0x08,
	tcp_flag_ack = 0x10,
	tcp_flag_cwr = 0x80,
};

enum {
	ecn_mask = 3,
	ecn_not_ect = 0,
	ecn_ect1 = 1,
	ecn_ect0 = 2,
	ecn_ce = 3,
};

/* A whole, valid IP packet. What must stay true: header_len <= len, and for TCP and UDP that are no fragments l4 and its
 * fixed header lie inside len. proto is 0 where the transport header is not at hand (fragment, cut-off header) or not
 * to be checked (a routing header of a kind that we cannot read).
 */
struct ip {
	uint8_t *data;
	uint32_t len;        /* the packet's own length; bytes behind it (padding) are not part of it */
	uint8_t version;     /* 4 or 6 */
	uint8_t proto;       /* transport whose header stands at l4, or 0 */
	uint8_t ecn;
	uint8_t header_len;  /* IP header: 20 to 60, IPv6 always 40 */
	uint16_t l4;         /* offset of the transport header (behind IPv6 extension headers) */
	uint16_t final_at;   /* offset of the destination that is under the transport checksum */
	bool fragment;       /* any fragment, the first one included */
	int16_t icmp_type;   /* of an ICMP or ICMPv6 message whose type is at hand, in a first fragment too; else -1 */
};

/* Parse the packet in data[0..len). Returns false unless it is one whole IPv4 or IPv6 packet with a sound header
 * (RFC 791 section 3.1, RFC 8200 section 3); len may be longer than the packet.
 */
bool ip_parse(uint8_t *data, uint32_t len, struct ip *out);

static inline const uint8_t *ip_source(const struct ip *ip)
{
	return ip->data + (ip->version == 4 ? 12 : 8);
}

static inline const uint8_t *ip_destination(const struct ip *ip)
{
	return ip->data + (ip->version == 4 ? 16 : 24);
}

/* Bytes of the IP and the transport header of a TCP or UDP packet. */
static inline uint32_t ip_headers(const struct ip *ip)
{
	return ip->l4 + (ip->proto == proto_tcp ? (uint32_t)(ip->data[ip->l4 + 12] >> 4) * 4 : udp_header);
}

/* How many packets a super-packet is, whose segments carry gso_size bytes each; 1 where it is none (gso_size 0). */
static inline uint32_t ip_segments(const struct ip *ip, uint32_t gso_size)
{
	uint32_t headers;

	if (!gso_size || (ip->proto != proto_tcp && ip->proto != proto_udp))
		return 1;
	headers = ip_headers(ip);
	return ip->len > headers ? (ip->len - headers + gso_size - 1) / gso_size : 1;
}

/* Multicast, broadcast, unspecified or (IPv6) link-local: nothing that an overlay of unicast leases carries. */
bool ip_is_group(const uint8_t *address, uint8_t version);

/* TTL or hop limit; ip_decrement_ttl keeps the IPv4 checksum right and needs ttl > 0. */
uint8_t ip_ttl(const struct ip *ip);
void ip_decrement_ttl(const struct ip *ip);

/* Set the ECN bits, keeping the IPv4 checksum right. */
void ip_set_ecn(struct ip *ip, uint8_t ecn);

/* Write the total length (and the IPv4 header checksum). */
void ip_set_length(struct ip *ip, uint32_t len);

/* Don't Fragment is asked for: IPv4 by its bit, IPv6 always. */
bool ip_may_not_fragment(const struct ip *ip);

/* A number that is the same for all packets of a flow (5-tuple; fragments: addresses), spread over 32 bits. */
uint32_t ip_flow_hash(const struct ip *ip);

/* ip_flow_hash of what the other end sends back in this TCP or UDP flow. */
uint32_t ip_reverse_hash(const struct ip *ip);

/* Sum of the pseudo-header for a transport segment of l4_len bytes (RFC 9293 section 3.1, RFC 8200 section 8.1). */
uint64_t ip_pseudo_sum(const struct ip *ip, uint32_t l4_len);

enum ip_checksum {
	ip_checksum_none,    /* nothing to check: no TCP or UDP at hand, or UDP without a checksum */
	ip_checksum_good,
	ip_checksum_partial, /* only the pseudo-header's sum stands there: the sender left the rest to a device */
	ip_checksum_bad,
};

enum ip_checksum ip_verify_checksum(const struct ip *ip);

/* Where the transport checksum stands, relative to l4: 16 for TCP, 6 for UDP. */
static inline uint32_t ip_checksum_offset(const struct ip *ip)
{
	return ip->proto == proto_tcp ? 16 : 6;
}

/* Compute the transport checksum over start..len, given that the pseudo-header's sum stands in the field at
 * start + offset (what CHECKSUM_PARTIAL means). Bounds are the caller's business.
 */
void ip_finish_checksum(uint8_t *data, uint32_t len, uint32_t start, uint32_t offset);

#endif
