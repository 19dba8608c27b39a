/* SPDX-License-Identifier: Apache-2.0 */
#include "verdict/wholes.h"

enum { probe_ms = 3000 - 1 }; /* the clock goes on between what is decided and what is seen */

static void read_key(uint8_t key[36], const struct look *look, bool is_answer)
{
	const uint8_t *l4 = look->data + look->l4;
	const uint8_t *ends[2] = {look_source(look), look_destination(look)}, *ports[2] = {l4, l4 + 2};

	memset(key, 0, 36);
	for (uint32_t i = 0; i < 2; i++) {
		memcpy(key + 16 * i, ends[i ^ is_answer], look->address_len);
		memcpy(key + 32 + 2 * i, ports[i ^ is_answer], 2);
	}
}

static bool is_same_station(const struct dp_peer *a, const struct dp_peer *b)
{
	return memcmp(&a->next_hop, &b->next_hop, sizeof(a->next_hop)) == 0 && memcmp(a->vtep_mac, b->vtep_mac, 6) == 0;
}

void wholes_left(struct wholes *wholes, const struct rules *rules, uint64_t now_ns, const struct look *super, bool is_refused)
{
	const struct dp_peer *peer = find_holder(rules, look_destination(super), super->version);
	struct probed *probed;

	CHECK(peer);
	probed = &wholes->slot[peer - rules->peers];
	if (!is_same_station(&probed->peer, peer))
		*probed = (struct probed){.peer = *peer};
	if (probed->is_proven)
		return;
	CHECK(super->proto == proto_tcp);
	CHECK(!probed->is_open || now_ns / 1000000 - probed->since_ns / 1000000 >= probe_ms);
	probed->is_open = !is_refused;
	probed->since_ns = now_ns;
	read_key(probed->key, super, false);
	probed->end = load32(super->data + super->l4 + 4) + super->len - look_headers(super);
}

void wholes_came(struct wholes *wholes, const struct look *look)
{
	uint8_t key[36];

	if (look->proto != proto_tcp || !(look->data[look->l4 + 13] & 0x10))
		return;
	read_key(key, look, true);
	for (uint32_t i = 0; i < slots; i++) {
		struct probed *probed = &wholes->slot[i];

		if (probed->is_open && memcmp(key, probed->key, sizeof(key)) == 0 &&
		    (int32_t)(load32(look->data + look->l4 + 8) - probed->end) >= 0)
			probed->is_proven = true;
	}
}
