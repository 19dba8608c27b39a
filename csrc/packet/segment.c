/* SPDX-License-Identifier: Apache-2.0 */
#include "packet/segment.h"

#include "packet/checksum.h"

bool segment_begin(struct segmenter *s, const struct ip *super, uint32_t gso_size)
{
	if (super->proto != proto_tcp && super->proto != proto_udp)
		return false;
	*s = (struct segmenter){.ip = *super, .gso_size = gso_size, .headers = ip_headers(super)};
	/* Addresses and protocol; the length differs by segment, and the header's own fields are summed where written. */
	s->fixed_sum = ip_pseudo_sum(super, 0);
	return gso_size > 0 && s->headers <= header_max && super->len > s->headers;
}

uint32_t segment_size(const struct segmenter *s)
{
	uint32_t left = s->ip.len - s->headers - s->offset;

	if (!left)
		return 0;
	return s->headers + (left < s->gso_size ? left : s->gso_size);
}

uint32_t segment_count(const struct segmenter *s)
{
	return ip_segments(&s->ip, s->gso_size);
}

static void write_ip_header(const struct segmenter *s, uint8_t *out, uint32_t len)
{
	struct ip ip = s->ip;

	ip.data = out;
	if (ip.version == 4)
		store16(out + 4, (uint16_t)(load16(s->ip.data + 4) + s->index));
	ip_set_length(&ip, len);
}

static void write_tcp_header(const struct segmenter *s, uint8_t *l4, bool last)
{
	store32(l4 + 4, load32(s->ip.data + s->ip.l4 + 4) + s->offset);
	if (!last)
		l4[tcp_flags_at] &= (uint8_t) ~(tcp_flag_fin | tcp_flag_psh);
	if (s->index)
		l4[tcp_flags_at] &= (uint8_t)~tcp_flag_cwr;
}

void segment_next(struct segmenter *s, uint8_t *out)
{
	uint32_t len = segment_size(s);
	uint32_t payload = len - s->headers;
	uint32_t l4_len = len - s->ip.l4;
	uint8_t *l4 = out + s->ip.l4;
	uint8_t *field = l4 + ip_checksum_offset(&s->ip);
	uint64_t sum = s->fixed_sum + checksum_be16((uint16_t)l4_len);

	memcpy(out, s->ip.data, s->headers);
	write_ip_header(s, out, len);
	if (s->ip.proto == proto_tcp)
		write_tcp_header(s, l4, s->offset + payload == s->ip.len - s->headers);
	else
		store16(l4 + 4, (uint16_t)l4_len);
	checksum_store(field, 0);
	/* Transport headers have an even length, so the payload's sum may be added to theirs. */
	sum += checksum_sum(l4, s->headers - s->ip.l4);
	sum += checksum_copy(out + s->headers, s->ip.data + s->headers + s->offset, payload);

	uint16_t folded = (uint16_t)~checksum_fold(sum);

	checksum_store(field, !folded && s->ip.proto == proto_udp ? 0xffff : folded);
	s->offset += payload;
	s->index++;
}
