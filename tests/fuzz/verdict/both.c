/* SPDX-License-Identifier: Apache-2.0 */
#include "verdict/both.h"

bool same_bits(const uint8_t *a, const uint8_t *b, uint32_t bits)
{
	for (uint32_t bit = 0; bit < bits; bit++)
		if ((a[bit / 8] ^ b[bit / 8]) >> (7 - bit % 8) & 1)
			return false;
	return true;
}

const struct dp_peer *find_holder(const struct rules *rules, const uint8_t *address, uint8_t version)
{
	const struct dp_peer *best = NULL;

	for (uint32_t i = 0; i < slots; i++) {
		const struct dp_peer *peer = &rules->peers[i];

		if (peer->prefix.family == version && (!best || peer->prefix_len > best->prefix_len) &&
		    same_bits(peer->prefix.bytes, address, peer->prefix_len))
			best = peer;
	}
	return best;
}

bool is_nobodys(const uint8_t *address, uint8_t version)
{
	static const uint8_t none[16], link_local[2] = {0xfe, 0x80};

	if (version == 4)
		return address[0] == 0 || address[0] >= 224;
	return address[0] == 0xff || same_bits(address, link_local, 10) || memcmp(address, none, 16) == 0;
}

static bool is_error(const struct look *look)
{
	int type = look->icmp_type;

	if (look->version == 6) /* RFC 4443 section 2.1; a redirect too (2.4 e.2) */
		return (type >= 0 && type < 128) || type == 137;
	return type == 3 || type == 4 || type == 5 || type == 11 || type == 12; /* RFC 1122 section 3.2.2 */
}

/* RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 e. */
static bool may_answer(const struct look *look)
{
	if (is_error(look) || is_nobodys(look_source(look), look->version) || is_nobodys(look_destination(look), look->version))
		return false;
	return look->version == 6 || (!look->is_later_fragment && look_source(look)[0] != 127);
}

void owe_error(struct verdict *verdict, const struct rules *rules, enum icmp_error kind, const struct look *about)
{
	static const uint8_t codes[2][icmp_errors][2] = {
		{[icmp_no_route] = {3, 0}, [icmp_ttl_exceeded] = {11, 0}, [icmp_too_big] = {3, 4}},
		{[icmp_no_route] = {1, 0}, [icmp_ttl_exceeded] = {3, 0}, [icmp_too_big] = {2, 0}},
	};
	bool six = about->version == 6;
	uint32_t header = six ? 40 : 20, quote = six ? 1280 - 40 - 8 : about->ip_header + 8, len;
	uint8_t out[1280] = {0}, *icmp = out + header;

	if (!may_answer(about))
		return;
	if (quote > about->len)
		quote = about->len;
	len = header + 8 + quote;
	memcpy(icmp, codes[six][kind], 2);
	if (kind == icmp_too_big)
		store16(icmp + 6, (uint16_t)rules->config->mtu);
	memcpy(icmp + 8, about->data, quote);
	if (six) {
		out[0] = 0x60;
		store16(out + 4, (uint16_t)(8 + quote));
		out[6] = 58;
		out[7] = 64;
		memcpy(out + 8, rules->config->tunnel6.bytes, 16);
		memcpy(out + 24, look_source(about), 16);
		store16(icmp + 2, twin_checksum(icmp, 8 + quote, twin_pseudo(out, 8 + quote, 58)));
	} else {
		out[0] = 0x45;
		store16(out + 2, (uint16_t)len);
		out[8] = 8;
		out[9] = 1;
		memcpy(out + 12, rules->config->tunnel4.bytes, 4);
		memcpy(out + 16, look_source(about), 4);
		store16(out + 10, twin_checksum(out, 20, 0));
		store16(icmp + 2, twin_checksum(icmp, 8 + quote, 0));
	}
	record_host(&verdict->host, rules->config, out, len, slot_error + kind);
	verdict->errors[kind]++;
}

void lower_ttl(uint8_t *packet, const struct look *look)
{
	packet[look->version == 6 ? 7 : 8]--;
	if (look->version == 4)
		cut_header_checksum(packet, look->ip_header);
}
