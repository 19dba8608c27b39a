/* SPDX-License-Identifier: Apache-2.0 */
/* The slow twin of what the core knows of packets, from the RFCs alone: a look at one, segmentation, checksums by the letter.
 *
 * Nothing of csrc but its names for numbers (packet/packet.h, packet/ip.h) is used in here, so that a mistake there is none here.
 */
#ifndef LOOK_H
#define LOOK_H

#include "twin.h"

/* A whole IPv4 or IPv6 packet. */
struct look {
	const uint8_t *data;
	uint32_t len;           /* without padding */
	uint8_t version;
	uint32_t addresses;     /* where the source stands, the destination right behind it */
	uint32_t address_len;
	uint8_t traffic_class;
	uint8_t ttl;
	bool may_not_fragment;
	bool is_fragment;       /* any, the first one included */
	bool is_later_fragment; /* one without a transport header */
	uint8_t proto;          /* TCP or UDP whose whole header is at l4, in no fragment; else 0 */
	int icmp_type;          /* -1: no ICMP, or its type is not at hand */
	uint32_t ip_header;     /* IPv6: without extension headers */
	uint32_t l4;
	uint8_t final[16];      /* the destination that the transport checksum covers */
};

static inline const uint8_t *look_source(const struct look *look)
{
	return look->data + look->addresses;
}

static inline const uint8_t *look_destination(const struct look *look)
{
	return look->data + look->addresses + look->address_len;
}

static inline void look_at_transport(struct look *look, uint8_t proto)
{
	const uint8_t *l4 = look->data + look->l4;
	uint32_t room = look->len - look->l4;

	if (proto == (look->version == 4 ? proto_icmp : proto_icmpv6) && room)
		look->icmp_type = l4[0];
	if (look->is_fragment)
		return;
	if (proto == proto_tcp && room >= 20 && l4[12] >> 4 >= 5 && (l4[12] >> 4) * 4u <= room)
		look->proto = proto;
	if (proto == proto_udp && room >= 8 && load16(l4 + 4) >= 8 && load16(l4 + 4) <= room)
		look->proto = proto;
}

/* RFC 791 section 3.1. */
static inline bool look_at4(struct look *look, uint32_t room)
{
	const uint8_t *data = look->data;
	uint32_t offset;

	if (room < 20)
		return false;
	look->ip_header = look->l4 = (data[0] & 15) * 4u;
	look->len = load16(data + 2);
	if (look->ip_header < 20 || look->len < look->ip_header || look->len > room)
		return false;
	if (twin_checksum(data, look->ip_header, 0) != 0)
		return false;
	look->addresses = 12;
	look->address_len = 4;
	look->traffic_class = data[1];
	look->ttl = data[8];
	look->may_not_fragment = data[6] & 0x40;
	offset = load16(data + 6) & 0x1fff;
	look->is_later_fragment = offset;
	look->is_fragment = offset || data[6] & 0x20;
	memcpy(look->final, data + 16, 4);
	if (!offset)
		look_at_transport(look, data[9]);
	return true;
}

/* A routing header that still leads somewhere says where (RFC 8200 section 4.4). False: it does, and nobody can tell where to. */
static inline bool look_at_routing(struct look *look, const uint8_t *header, uint32_t len)
{
	uint8_t type = header[2];

	if (!header[3])
		return true;
	if (len < 24)
		return false;
	if (type == 4) /* RFC 8754: the list begins with the last one */
		memcpy(look->final, header + 8, 16);
	else if (type == 0 || type == 2 || (type == 3 && !(header[4] & 15) && !(header[5] >> 4))) /* RFC 6554: nothing compressed */
		memcpy(look->final, header + len - 16, 16);
	else
		return false;
	return true;
}

/* RFC 8200 sections 3 and 4. */
static inline bool look_at6(struct look *look, uint32_t room)
{
	const uint8_t *data = look->data;
	bool is_final_known = true;
	uint8_t next;

	if (room < 40)
		return false;
	look->len = 40u + load16(data + 4);
	if (look->len > room || look->len > 65535)
		return false;
	look->ip_header = look->l4 = 40;
	look->addresses = 8;
	look->address_len = 16;
	look->traffic_class = (uint8_t)(load16(data) >> 4);
	look->ttl = data[7];
	look->may_not_fragment = true;
	memcpy(look->final, data + 24, 16);
	for (next = data[6]; next == 0 || next == 43 || next == 44 || next == 60;) {
		const uint8_t *header = data + look->l4;
		uint32_t left = look->len - look->l4, len;

		if (left < 8)
			return true;
		len = next == 44 ? 8 : (header[1] + 1u) * 8;
		if (next == 44) {
			look->is_fragment = true;
			look->is_later_fragment = load16(header + 2) >> 3;
		}
		if (look->is_later_fragment || left < len)
			return true;
		if (next == 43 && header[3])
			is_final_known = look_at_routing(look, header, len);
		next = header[0];
		look->l4 += len;
	}
	look_at_transport(look, next);
	if (!is_final_known)
		look->proto = 0;
	return true;
}

/* False: no whole IP packet begins here. There may be more than it. */
static inline bool look_at(const uint8_t *data, uint32_t room, struct look *look)
{
	*look = (struct look){.data = data, .icmp_type = -1, .version = room ? data[0] >> 4 : 0};
	return look->version == 4 ? look_at4(look, room) : look->version == 6 && look_at6(look, room);
}

/* Bytes of the IP and transport headers of TCP or UDP. */
static inline uint32_t look_headers(const struct look *look)
{
	return look->l4 + (look->proto == proto_tcp ? (look->data[look->l4 + 12] >> 4) * 4u : 8);
}

static inline uint32_t look_checksum_at(const struct look *look)
{
	return look->l4 + (look->proto == proto_tcp ? 16 : 6);
}

/* What the transport covers: UDP may be shorter than its packet. */
static inline uint32_t look_transport_len(const struct look *look)
{
	return look->proto == proto_udp ? load16(look->data + look->l4 + 4) : look->len - look->l4;
}

/* The pseudo-header's folded sum for a transport of this length. */
static inline uint16_t look_pseudo(const struct look *look, uint32_t transport_len)
{
	uint8_t header[40];

	memcpy(header, look->data, look->version == 4 ? 20 : 40);
	memcpy(header + look->addresses + look->address_len, look->final, look->address_len);
	return (uint16_t)twin_pseudo(header, transport_len, look->proto);
}

/* How many packets a super-packet is, cut to this many bytes of payload each; 1: it is none. */
static inline uint32_t cut_count(const struct look *look, uint32_t gso_size)
{
	if (!look->proto || !gso_size || look->len <= look_headers(look))
		return 1;
	return (look->len - look_headers(look) + gso_size - 1) / gso_size;
}

static inline void cut_header_checksum(uint8_t *packet, uint32_t header)
{
	store16(packet + 10, 0);
	store16(packet + 10, twin_checksum(packet, header, 0));
}

/* Write segment number index of the super-packet; returns its length. */
static inline uint32_t cut_segment(uint8_t *out, const struct look *super, uint32_t gso_size, uint32_t index)
{
	uint32_t headers = look_headers(super), offset = index * gso_size, left = super->len - headers - offset;
	uint32_t payload = left < gso_size ? left : gso_size, len = headers + payload, l4_len = len - super->l4;
	uint8_t *l4 = out + super->l4, *field = out + look_checksum_at(super);
	uint16_t sum;

	memcpy(out, super->data, headers);
	memcpy(out + headers, super->data + headers + offset, payload);
	if (super->version == 4) {
		store16(out + 2, (uint16_t)len);
		store16(out + 4, (uint16_t)(load16(out + 4) + index));
		cut_header_checksum(out, super->ip_header);
	} else {
		store16(out + 4, (uint16_t)(len - 40));
	}
	if (super->proto == proto_tcp) {
		store32(l4 + 4, load32(l4 + 4) + offset);
		if (left > gso_size)
			l4[13] &= 0xf6; /* FIN and PSH are the last one's */
		if (index)
			l4[13] &= 0x7f; /* CWR is the first one's */
	} else {
		store16(l4 + 4, (uint16_t)l4_len);
	}
	store16(field, 0);
	sum = twin_checksum(l4, l4_len, look_pseudo(super, l4_len));
	store16(field, !sum && super->proto == proto_udp ? 0xffff : sum);
	return len;
}

/* What CHECKSUM_PARTIAL asks for (Linux skb_checksum_help). */
static inline void cut_finish_checksum(uint8_t *packet, uint32_t len, uint32_t start, uint32_t offset)
{
	uint16_t sum = twin_checksum(packet + start, len - start, 0);

	store16(packet + start + offset, sum ? sum : 0xffff);
}

#endif
