/* SPDX-License-Identifier: Apache-2.0 */
/* The slow twin of segmentation and checksum offload: one segment by itself, from the rules alone, every checksum by the letter. */
#ifndef CUT_H
#define CUT_H

#include "../c/twin.h"

static inline uint32_t cut_headers(const struct ip *ip)
{
	return ip->l4 + (ip->proto == proto_tcp ? (uint32_t)(ip->data[ip->l4 + 12] >> 4) * 4 : udp_header);
}

static inline uint32_t cut_count(const struct ip *ip, uint32_t gso_size)
{
	return (ip->len - cut_headers(ip) + gso_size - 1) / gso_size;
}

/* The checksum that l4_len bytes of transport ought to have where their field is zero, as a number. */
static inline uint16_t cut_transport_checksum(const uint8_t *packet, const struct ip *ip, uint32_t l4_len)
{
	uint8_t header[ipv6_header];

	memcpy(header, packet, ip->version == 4 ? ipv4_header : ipv6_header);
	if (ip->version == 6) /* the destination at the end of a routing header */
		memcpy(header + 24, packet + ip->final_at, 16);

	uint16_t sum = twin_checksum(packet + ip->l4, l4_len, twin_pseudo(header, l4_len, ip->proto));

	return !sum && ip->proto == proto_udp ? 0xffff : sum;
}

/* Write segment number index of the super-packet; returns its length. */
static inline uint32_t cut_segment(uint8_t *out, const struct ip *super, uint32_t gso_size, uint32_t index)
{
	uint32_t headers = cut_headers(super), offset = index * gso_size, left = super->len - headers - offset;
	uint32_t payload = left < gso_size ? left : gso_size, len = headers + payload, l4_len = len - super->l4;
	uint8_t *l4 = out + super->l4, *field = l4 + (super->proto == proto_tcp ? 16 : 6);

	memcpy(out, super->data, headers);
	memcpy(out + headers, super->data + headers + offset, payload);
	if (super->version == 4) {
		store16(out + 2, (uint16_t)len);
		store16(out + 4, (uint16_t)(load16(out + 4) + index));
		store16(out + 10, 0);
		store16(out + 10, twin_checksum(out, super->header_len, 0));
	} else {
		store16(out + 4, (uint16_t)(len - ipv6_header));
	}
	if (super->proto == proto_tcp) {
		store32(l4 + 4, load32(l4 + 4) + offset);
		if (left > gso_size)
			l4[tcp_flags_at] &= (uint8_t) ~(tcp_flag_fin | tcp_flag_psh);
		if (index)
			l4[tcp_flags_at] &= (uint8_t)~tcp_flag_cwr;
	} else {
		store16(l4 + 4, (uint16_t)l4_len);
	}
	store16(field, 0);
	store16(field, cut_transport_checksum(out, super, l4_len));
	return len;
}

/* What CHECKSUM_PARTIAL asks for (Linux skb_checksum_help). */
static inline void cut_finish_checksum(uint8_t *packet, uint32_t len, uint32_t start, uint32_t offset)
{
	uint16_t sum = twin_checksum(packet + start, len - start, 0);

	store16(packet + start + offset, sum ? sum : 0xffff);
}

#endif
