/* SPDX-License-Identifier: Apache-2.0 */
/* Making a table, and its end: on the control side, which may allocate, and nobody looks up in a table that is not whole. */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "table/layout.h"

static struct key mask6(uint32_t prefix_len)
{
	struct key mask = {0};

	if (prefix_len >= 64) {
		mask.high = UINT64_MAX;
		if (prefix_len > 64)
			mask.low = UINT64_MAX << (128 - prefix_len);
	} else if (prefix_len > 0) {
		mask.high = UINT64_MAX << (64 - prefix_len);
	}
	return mask;
}

static uint32_t mask4(uint32_t prefix_len)
{
	return prefix_len ? UINT32_MAX << (32 - prefix_len) : 0;
}

static uint32_t capacity_for(uint32_t count)
{
	uint32_t capacity = 8;

	while (capacity < 2 * count)
		capacity *= 2;
	return capacity;
}

static uint32_t identity_of(const struct dp_peer *from)
{
	struct key address = key_of(from->next_hop.bytes, from->next_hop.family);
	uint64_t mac = (uint64_t)load16(from->vtep_mac) << 32 | load32(from->vtep_mac + 2);
	static const uint64_t odd = 0x9e3779b97f4a7c15u;

	return (uint32_t)mix(mix(mix(address.high + odd, odd) ^ address.low ^ odd, odd) ^ mac ^ odd, odd);
}

static void fill_peer(struct fib_peer *peer, const struct dp_peer *from, uint32_t slot, uint16_t port)
{
	peer->slot = slot;
	peer->local = from->local;
	if (from->local && from->prefix.family == 4 && from->prefix_len < 31) {
		peer->has_broadcast = true;
		store32(peer->broadcast, load32(from->prefix.bytes) | ~mask4(from->prefix_len));
	}
	memcpy(peer->vtep_mac, from->vtep_mac, 6);
	if (from->next_hop.family == 4) {
		peer->address.in.sin_family = AF_INET;
		peer->address.in.sin_port = htons(port);
		memcpy(&peer->address.in.sin_addr, from->next_hop.bytes, 4);
		peer->address_len = sizeof(peer->address.in);
	} else {
		peer->address.in6.sin6_family = AF_INET6;
		peer->address.in6.sin6_port = htons(port);
		memcpy(&peer->address.in6.sin6_addr, from->next_hop.bytes, 16);
		peer->address_len = sizeof(peer->address.in6);
	}
	peer->identity = identity_of(from);
}

/* Count the prefixes of each length and make the levels, longest first. */
static int make_levels(struct fib *fib, const struct dp_peer *slots, uint32_t count, uint32_t peers)
{
	uint32_t used4[33] = {0}, used6[129] = {0};

	for (uint32_t i = 0; i < count; i++) {
		if (slots[i].prefix.family == 4)
			used4[slots[i].prefix_len]++;
		else if (slots[i].prefix.family == 6)
			used6[slots[i].prefix_len]++;
	}
	for (int len = 32; len >= 0; len--) {
		struct level4 *level = &fib->level4[fib->levels4];

		if (!used4[len])
			continue;
		*level = (struct level4){.mask = mask4((uint32_t)len), .prefix_len = (uint8_t)len, .capacity = capacity_for(used4[len])};
		level->entries = calloc(level->capacity, sizeof(*level->entries));
		if (!level->entries)
			return -ENOMEM;
		fib->levels4++;
	}
	for (int len = 128; len >= 0; len--) {
		struct level *level = &fib->level6[fib->levels6];

		if (!used6[len])
			continue;
		*level = (struct level){.mask = mask6((uint32_t)len), .prefix_len = (uint8_t)len, .capacity = capacity_for(used6[len])};
		level->entries = calloc(level->capacity, sizeof(*level->entries));
		if (!level->entries)
			return -ENOMEM;
		fib->levels6++;
	}
	fib->senders.capacity = capacity_for(peers);
	fib->senders.entries = calloc(fib->senders.capacity, sizeof(*fib->senders.entries));
	fib->stations.capacity = fib->senders.capacity;
	fib->stations.entries = calloc(fib->stations.capacity, sizeof(*fib->stations.entries));
	return fib->senders.entries && fib->stations.entries ? 0 : -ENOMEM;
}

static int insert_prefix(struct fib *fib, const struct dp_peer *from, uint32_t index)
{
	if (from->prefix.family == 4) {
		const struct level4 *level = fib->level4;

		while (level->prefix_len != from->prefix_len)
			level++;
		uint32_t key = load32(from->prefix.bytes) & level->mask;
		struct entry4 *entry = find4(fib, level, key);

		if (entry->peer)
			return -EEXIST;
		*entry = (struct entry4){key, index + 1};
		return 0;
	}

	const struct level *level = fib->level6;

	while (level->prefix_len != from->prefix_len)
		level++;
	struct key key = key_of(from->prefix.bytes, 6);
	key = (struct key){key.high & level->mask.high, key.low & level->mask.low};
	struct entry *entry = find(fib, level, key);

	if (entry->peer)
		return -EEXIST;
	*entry = (struct entry){key, index + 1};
	return 0;
}

static void insert_sender(struct fib *fib, struct fib_peer *peer)
{
	struct key key = sender_key(&peer->address.sa);
	struct entry *entry = find(fib, &fib->senders, key);

	if (!entry->peer)
		*entry = (struct entry){key, (uint32_t)(peer - fib->peers) + 1};
	peer->sender = entry->peer - 1;
	key = station_key(peer->sender, peer->vtep_mac);
	entry = find(fib, &fib->stations, key);
	if (!entry->peer)
		*entry = (struct entry){key, (uint32_t)(peer - fib->peers) + 1};
}

int fib_build(const struct dp_peer *slots, uint32_t count, uint16_t port, struct fib **out)
{
	uint32_t peers = 0;
	int error;
	struct fib *fib = calloc(1, sizeof(*fib));

	if (!fib)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++)
		peers += slots[i].prefix.family != 0;
	fib->peers = calloc(peers ? peers : 1, sizeof(*fib->peers));
	error = fib->peers ? make_levels(fib, slots, count, peers) : -ENOMEM;
	if (!error && getrandom(fib->seed, sizeof(fib->seed), 0) != sizeof(fib->seed))
		error = -EIO;
	fib->seed[1] |= 1;

	uint32_t index = 0;

	for (uint32_t i = 0; i < count && !error; i++) {
		if (!slots[i].prefix.family)
			continue;
		fill_peer(&fib->peers[index], &slots[i], i, port);
		error = insert_prefix(fib, &slots[i], index);
		if (!slots[i].local)
			insert_sender(fib, &fib->peers[index]);
		else
			fib->peers[index].sender = fib_nobody;
		index++;
	}
	if (error) {
		fib_free(fib);
		return error;
	}
	*out = fib;
	return 0;
}

void fib_free(struct fib *fib)
{
	if (!fib)
		return;
	for (uint32_t i = 0; i < fib->levels4; i++)
		free(fib->level4[i].entries);
	for (uint32_t i = 0; i < fib->levels6; i++)
		free(fib->level6[i].entries);
	free(fib->senders.entries);
	free(fib->stations.entries);
	free(fib->peers);
	free(fib);
}
