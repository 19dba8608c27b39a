/* SPDX-License-Identifier: Apache-2.0 */
#include "verdict/records.h"

#include <stdio.h>

static uint64_t digest(uint64_t state, const void *data, size_t len)
{
	const uint8_t *at = data;

	for (; len >= 8; at += 8, len -= 8) {
		uint64_t word;

		memcpy(&word, at, 8);
		state = (state ^ word) * 0x9e3779b97f4a7c15u;
		state ^= state >> 29;
	}
	for (; len; at++, len--)
		state = (state ^ *at) * 0x100000001b3u;
	return state ^ state >> 32;
}

static void add(struct records *records, struct record record)
{
	CHECK(records->used < records_max);
	record.flow |= 1; /* 0 is none */
	records->record[records->used++] = record;
}

static uint64_t flow_of(uint64_t state, const struct look *look)
{
	state = digest(state ^ look->proto, look_source(look), 2 * look->address_len);
	return look->proto ? digest(state, look->data + look->l4, 4) : state;
}

/* A header's checksum may have two representations (RFC 1624 section 3); look_at has found it right. */
static void blank_header_checksum(uint8_t *packet)
{
	if (packet[0] >> 4 == 4)
		store16(packet + 10, 0);
}

void record_wire(struct records *records, const union underlay_address *to, uint8_t tos, const uint8_t *data, uint32_t len,
		 uint32_t overhead, uint32_t source, uint32_t slot)
{
	static uint8_t copy[encap_overhead_max + packet_max];
	uint64_t flow, content;
	struct look look;

	CHECK(len > overhead && look_at(data + overhead, len - overhead, &look) && overhead + look.len == len);
	if (to->sa.sa_family == AF_INET)
		flow = digest(0, &to->in.sin_port, 6);
	else
		flow = digest(digest(0, &to->in6.sin6_port, 2), &to->in6.sin6_addr, 16);
	memcpy(copy, data, len);
	blank_header_checksum(copy + overhead);
	content = digest(flow ^ tos, copy, len);
	add(records, (struct record){flow_of(flow, &look), content, len - overhead, source, slot});
}

static bool is_ours(const struct dp_config *config, const struct look *look)
{
	const struct dp_address *own = look->version == 4 ? &config->tunnel4 : &config->tunnel6;

	return memcmp(look_source(look), own->bytes, look->address_len) == 0;
}

void record_host(struct records *records, const struct dp_config *config, const uint8_t *packet, uint32_t len, uint32_t slot)
{
	static uint8_t copy[packet_max];
	uint64_t flow, content;
	struct look look;

	CHECK(look_at(packet, len, &look) && look.len == len);
	memcpy(copy, packet, len);
	flow = flow_of(0, &look);
	if (look.proto) {
		uint8_t *field = copy + look_checksum_at(&look);
		uint16_t found = load16(field);

		if (found || look.proto == proto_tcp) {
			uint32_t transport_len = look_transport_len(&look);

			store16(field, 0);
			CHECK(found % 0xffff == twin_checksum(copy + look.l4, transport_len, look_pseudo(&look, transport_len)) % 0xffff);
		}
	}
	blank_header_checksum(copy);
	if (look.version == 4 && look.may_not_fragment)
		store16(copy + 4, 0); /* such an ID means nothing (RFC 6864) */
	content = digest(0, copy, len);
	if (look.icmp_type >= 0 && is_ours(config, &look))
		flow = content; /* errors are about packets both ways, in whichever order */
	add(records, (struct record){flow, content, len, 0, slot});
}

struct cursor {
	uint64_t flow;
	uint32_t next; /* index + 1 of the flow's next record; 0: none is left */
	uint32_t source;
	bool has_source;
};

enum { cursors_max = 4096 };

static struct cursor cursors[cursors_max];

static struct cursor *find_cursor(uint64_t flow)
{
	for (uint64_t at = flow;; at++) {
		struct cursor *cursor = &cursors[at % cursors_max];

		if (!cursor->flow || cursor->flow == flow)
			return cursor;
	}
}

static void sum_up(struct sums *sums, const struct record *found)
{
	if (found->slot >= slot_error) {
		sums->errors[found->slot - slot_error]++;
		return;
	}
	sums->packets++;
	sums->bytes += found->len;
	sums->by_slot[found->slot]++;
}

void match(const struct records *left, const struct records *right, bool is_ordered, struct sums *sums)
{
	static uint32_t chain[records_max];

	memset(sums, 0, sizeof(*sums));
	memset(cursors, 0, sizeof(cursors));
	for (uint32_t i = right->used; i-- > 0;) {
		struct cursor *cursor = find_cursor(right->record[i].flow);

		chain[i] = cursor->next;
		cursor->flow = right->record[i].flow;
		cursor->next = i + 1;
	}
	for (uint32_t i = 0; i < left->used; i++) {
		const struct record *record = &left->record[i];
		struct cursor *cursor = find_cursor(record->flow);
		uint32_t *link = &cursor->next;

		while (*link && right->record[*link - 1].content != record->content)
			link = &chain[*link - 1];
		if (!*link)
			fprintf(stderr, "record %u of %u, %u bytes, is not right (there are %u)\n", i, left->used, record->len, right->used);
		CHECK(*link);
		sum_up(sums, &right->record[*link - 1]);
		if (is_ordered) { /* what was passed over is lost */
			CHECK(!cursor->has_source || cursor->source == record->source);
			cursor->has_source = true;
			cursor->source = record->source;
			cursor->next = chain[*link - 1];
		} else {
			*link = chain[*link - 1];
		}
	}
}
