/* SPDX-License-Identifier: Apache-2.0 */
#include "packet/ip.h"

#include "packet/checksum.h"

enum {
	next_hop_by_hop = 0,
	next_routing = 43,
	next_fragment = 44,
	next_options = 60,
};

enum {
	routing_source = 0,      /* RFC 2460 section 4.4; deprecated, carried all the same */
	routing_mobile = 2,      /* RFC 6275 section 6.4 */
	routing_rpl = 3,         /* RFC 6554 section 3 */
	routing_segments = 4,    /* RFC 8754 section 2 */
};

/* The transport header must be wholly there for proto to be believed; of a fragment, only an ICMP type is of interest. */
static void find_transport(struct ip *ip, uint8_t proto, uint32_t at)
{
	uint32_t room = ip->len - at;

	if (proto == (ip->version == 4 ? proto_icmp : proto_icmpv6) && room)
		ip->icmp_type = ip->data[at];
	if (ip->fragment)
		return;
	switch (proto) {
	case proto_tcp:
		if (room >= tcp_header) {
			uint32_t tcp_len = (uint32_t)(ip->data[at + 12] >> 4) * 4;

			if (tcp_len >= tcp_header && tcp_len <= room)
				ip->proto = proto;
		}
		break;
	case proto_udp:
		if (room >= udp_header && load16(ip->data + at + 4) >= udp_header && load16(ip->data + at + 4) <= room)
			ip->proto = proto;
		break;
	}
}

static bool parse4(uint8_t *data, uint32_t len, struct ip *out)
{
	uint32_t header_len, total;

	if (len < ipv4_header)
		return false;
	header_len = (uint32_t)(data[0] & 15) * 4;
	total = load16(data + 2);
	if (header_len < ipv4_header || total < header_len || total > len)
		return false;
	if (checksum_fold(checksum_sum(data, header_len)) != 0xffff)
		return false;
	out->len = total;
	out->header_len = (uint8_t)header_len;
	out->ecn = data[1] & ecn_mask;
	out->l4 = (uint16_t)header_len;
	out->final_at = 16;
	out->fragment = (load16(data + 6) & 0x3fff) != 0;
	if ((load16(data + 6) & 0x1fff) == 0) /* whole, or the first fragment */
		find_transport(out, data[9], header_len);
	return true;
}

/* Where the final destination stands that a routing header with segments left leads to: it, not the IP header's, is under the
 * transport checksum (RFC 8200 section 8.1). Returns 0 where that cannot be told: a type we do not know, shortened addresses.
 */
static uint32_t find_final(const uint8_t *data, uint32_t at, uint32_t len)
{
	if (len < 8 + 16)
		return 0;
	switch (data[at + 2]) {
	case routing_segments: /* the list is in reverse */
		return at + 8;
	case routing_rpl:
		if ((data[at + 4] & 0x0f) != 0 || (data[at + 5] & 0xf0) != 0) /* CmprE, Pad */
			return 0;
		return at + len - 16;
	case routing_source:
	case routing_mobile:
		return at + len - 16;
	}
	return 0;
}

/* Walk hop-by-hop, routing, fragment and destination options (RFC 8200 section 4.1) to the transport header; each is 8 bytes at
 * least, so the packet's length bounds the walk. A chain that breaks off, or is cut by a fragment, leaves the transport unknown.
 */
static void walk_extensions(struct ip *out)
{
	uint8_t next = out->data[6];
	uint32_t at = ipv6_header;

	while (next == next_hop_by_hop || next == next_routing || next == next_fragment || next == next_options) {
		const uint8_t *header = out->data + at;

		out->l4 = (uint16_t)at;
		if (out->len - at < 8)
			return;
		if (next == next_fragment) {
			out->fragment = true;
			if (load16(header + 2) & 0xfff8)
				return; /* a later fragment: what follows is the middle of something */
		}

		uint32_t step = next == next_fragment ? 8 : ((uint32_t)header[1] + 1) * 8;

		if (out->len - at < step)
			return;
		if (next == next_routing && header[3])
			out->final_at = (uint16_t)find_final(out->data, at, step);
		next = header[0];
		at += step;
	}
	out->l4 = (uint16_t)at;
	find_transport(out, next, at);
	if (!out->final_at)
		out->proto = 0;
}

static bool parse6(uint8_t *data, uint32_t len, struct ip *out)
{
	uint32_t total;

	if (len < ipv6_header)
		return false;
	total = ipv6_header + (uint32_t)load16(data + 4);
	if (total > len || total > packet_max)
		return false;
	out->len = total;
	out->header_len = ipv6_header;
	out->ecn = (data[1] >> 4) & ecn_mask;
	out->fragment = false;
	out->final_at = 24;
	walk_extensions(out);
	return true;
}

bool ip_parse(uint8_t *data, uint32_t len, struct ip *out)
{
	if (len < 1)
		return false;
	out->data = data;
	out->version = data[0] >> 4;
	out->proto = 0;
	out->icmp_type = -1;
	switch (out->version) {
	case 4:
		return parse4(data, len, out);
	case 6:
		return parse6(data, len, out);
	}
	return false;
}

bool ip_is_group(const uint8_t *address, uint8_t version)
{
	static const uint8_t unspecified[16];

	if (version == 4)
		return address[0] >= 224 || address[0] == 0;
	return address[0] == 0xff || (address[0] == 0xfe && (address[1] & 0xc0) == 0x80) ||
	       memcmp(address, unspecified, 16) == 0;
}

uint8_t ip_ttl(const struct ip *ip)
{
	return ip->data[ip->version == 4 ? 8 : 7];
}

void ip_decrement_ttl(const struct ip *ip)
{
	if (ip->version == 6) {
		ip->data[7]--;
		return;
	}
	/* One less in the high byte of the word TTL|protocol is 0x0100 more in the complemented sum, with end-around
	 * carry: the form that never yields 0xffff from a sound header (as the kernel's ip_decrease_ttl).
	 */
	uint32_t sum = (uint32_t)load16(ip->data + 10) + 0x0100;

	store16(ip->data + 10, (uint16_t)(sum + (sum >= 0xffff)));
	ip->data[8]--;
}

void ip_set_ecn(struct ip *ip, uint8_t ecn)
{
	ip->ecn = ecn;
	if (ip->version == 6) {
		ip->data[1] = (uint8_t)((ip->data[1] & ~(ecn_mask << 4)) | (ecn << 4));
		return;
	}
	uint16_t old_word = checksum_load(ip->data);

	ip->data[1] = (uint8_t)((ip->data[1] & ~ecn_mask) | ecn);
	checksum_store(ip->data + 10, checksum_replace(checksum_load(ip->data + 10), old_word, checksum_load(ip->data)));
}

void ip_set_length(struct ip *ip, uint32_t len)
{
	ip->len = len;
	if (ip->version == 6) {
		store16(ip->data + 4, (uint16_t)(len - ipv6_header));
		return;
	}
	store16(ip->data + 2, (uint16_t)len);
	store16(ip->data + 10, 0);
	checksum_store(ip->data + 10, (uint16_t)~checksum_fold(checksum_sum(ip->data, ip->header_len)));
}

bool ip_may_not_fragment(const struct ip *ip)
{
	return ip->version == 6 || (ip->data[6] & 0x40);
}

static uint32_t hash_words(uint64_t hash, const uint64_t words[5])
{
	for (int i = 0; i < 5; i++)
		hash = (hash ^ words[i]) * 0x9e3779b97f4a7c15u;
	return (uint32_t)(hash >> 32);
}

uint32_t ip_flow_hash(const struct ip *ip)
{
	uint64_t words[5] = {0};

	memcpy(words, ip_source(ip), ip->version == 4 ? 8 : 32);
	if (ip->proto == proto_tcp || ip->proto == proto_udp)
		memcpy(&words[4], ip->data + ip->l4, 4);
	return hash_words(ip->proto, words);
}

uint32_t ip_reverse_hash(const struct ip *ip)
{
	uint64_t words[5] = {0};
	uint32_t address = ip->version == 4 ? 4 : 16;

	memcpy(words, ip_destination(ip), address);
	memcpy((uint8_t *)words + address, ip_source(ip), address);
	memcpy(&words[4], ip->data + ip->l4 + 2, 2);
	memcpy((uint8_t *)&words[4] + 2, ip->data + ip->l4, 2);
	return hash_words(ip->proto, words);
}

uint64_t ip_pseudo_sum(const struct ip *ip, uint32_t l4_len)
{
	uint32_t address = ip->version == 4 ? 4 : 16;
	uint64_t sum = checksum_sum(ip_source(ip), address) + checksum_sum(ip->data + ip->final_at, address);

	return sum + checksum_be16((uint16_t)l4_len) + checksum_be16(ip->proto);
}

enum ip_checksum ip_verify_checksum(const struct ip *ip)
{
	uint32_t l4_len = ip->len - ip->l4;
	const uint8_t *l4 = ip->data + ip->l4;
	uint16_t found;

	if (ip->proto != proto_tcp && ip->proto != proto_udp)
		return ip_checksum_none;
	if (ip->proto == proto_udp)
		l4_len = load16(l4 + 4); /* may be shorter than the packet (RFC 768); the checksum covers this much */
	found = checksum_load(l4 + ip_checksum_offset(ip));
	if (ip->proto == proto_udp && found == 0)
		return ip_checksum_none;

	uint64_t pseudo = ip_pseudo_sum(ip, l4_len);

	if (checksum_fold(pseudo + checksum_sum(l4, l4_len)) == 0xffff)
		return ip_checksum_good;
	/* Who finishes it sums to the packet's end, so that must be the datagram's too. */
	return found == checksum_fold(pseudo) && l4_len == ip->len - ip->l4 ? ip_checksum_partial : ip_checksum_bad;
}

void ip_finish_checksum(uint8_t *data, uint32_t len, uint32_t start, uint32_t offset)
{
	uint16_t sum = (uint16_t)~checksum_fold(checksum_sum(data + start, len - start));

	checksum_store(data + start + offset, sum ? sum : 0xffff);
}
