/* SPDX-License-Identifier: Apache-2.0 */
/* Slow twins: the plainest possible form of what the core does cleverly, to compare with. */
#ifndef TWIN_H
#define TWIN_H

#include "packet/ip.h"

/* RFC 1071 by the letter, big-endian words; returns the checksum as a number. */
static inline uint16_t twin_checksum(const uint8_t *data, size_t len, uint32_t sum)
{
	for (size_t i = 0; i < len; i++)
		sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* Folded sum of the pseudo-header of a packet whose transport part is l4_len bytes. */
static inline uint32_t twin_pseudo(const uint8_t *packet, uint32_t l4_len, uint8_t proto)
{
	int six = packet[0] >> 4 == 6;
	uint8_t pseudo[40] = {0};
	uint32_t addresses = six ? 32 : 8;

	memcpy(pseudo, packet + (six ? 8 : 12), addresses);
	pseudo[addresses + 0] = (uint8_t)(l4_len >> 8);
	pseudo[addresses + 1] = (uint8_t)l4_len;
	pseudo[addresses + 3] = proto;
	return (uint16_t)~twin_checksum(pseudo, addresses + 4, 0);
}

struct twin_spec {
	int version;
	uint8_t proto;
	uint8_t ttl;
	uint8_t tos;
	uint8_t flags;         /* TCP */
	int dont_fragment;
	uint16_t id;
	uint16_t ports[2];
	uint32_t sequence;
	uint32_t acknowledgement;
	uint16_t window;
	uint32_t options;      /* bytes of TCP options, a multiple of 4 */
	uint32_t payload;
	uint8_t source[16];
	uint8_t destination[16];
};

/* Write a whole TCP or UDP packet with right checksums; the payload's bytes follow from the seed. Returns its length. */
static inline uint32_t twin_packet(uint8_t *out, const struct twin_spec *spec, uint8_t seed)
{
	uint32_t ip_len = spec->version == 4 ? 20 : 40;
	uint32_t l4_header = spec->proto == proto_tcp ? 20 + spec->options : 8;
	uint32_t l4_len = l4_header + spec->payload;
	uint8_t *l4 = out + ip_len, *field;
	uint16_t checksum;

	memset(out, 0, ip_len + l4_header);
	if (spec->version == 4) {
		out[0] = 0x45;
		out[1] = spec->tos;
		store16(out + 2, (uint16_t)(ip_len + l4_len));
		store16(out + 4, spec->id);
		out[6] = spec->dont_fragment ? 0x40 : 0;
		out[8] = spec->ttl;
		out[9] = spec->proto;
		memcpy(out + 12, spec->source, 4);
		memcpy(out + 16, spec->destination, 4);
		store16(out + 10, twin_checksum(out, 20, 0));
	} else {
		out[0] = (uint8_t)(0x60 | spec->tos >> 4);
		out[1] = (uint8_t)(spec->tos << 4);
		store16(out + 4, (uint16_t)l4_len);
		out[6] = spec->proto;
		out[7] = spec->ttl;
		memcpy(out + 8, spec->source, 16);
		memcpy(out + 24, spec->destination, 16);
	}
	store16(l4, spec->ports[0]);
	store16(l4 + 2, spec->ports[1]);
	if (spec->proto == proto_tcp) {
		store32(l4 + 4, spec->sequence);
		store32(l4 + 8, spec->acknowledgement);
		l4[12] = (uint8_t)(l4_header / 4 << 4);
		l4[13] = spec->flags;
		store16(l4 + 14, spec->window);
		memset(l4 + 20, 1, spec->options); /* NOPs */
		field = l4 + 16;
	} else {
		store16(l4 + 4, (uint16_t)l4_len);
		field = l4 + 6;
	}
	for (uint32_t i = 0; i < spec->payload; i++)
		l4[l4_header + i] = (uint8_t)(seed + i * 7);
	checksum = twin_checksum(l4, l4_len, twin_pseudo(out, l4_len, spec->proto));
	store16(field, checksum || spec->proto == proto_tcp ? checksum : 0xffff);
	return ip_len + l4_len;
}

#endif
