/* SPDX-License-Identifier: Apache-2.0 */
#include "table/fib.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

/* Addresses are two 64-bit words: IPv6 whole; IPv4 as a 32-bit number in the low word. */
struct key {
	uint64_t high;
	uint64_t low;
};

struct entry {
	struct key key;
	uint32_t peer; /* index + 1; 0: empty */
};

struct level {
	struct key mask;
	struct entry *entries;
	uint32_t capacity; /* a power of two, at least twice the number of prefixes */
	uint8_t prefix_len;
};

/* IPv4 keys fit 32 bits, and a third of the memory is what keeps 10,000 peers in the cache. */
struct entry4 {
	uint32_t key;
	uint32_t peer;
};

struct level4 {
	uint32_t mask;
	uint32_t capacity;
	struct entry4 *entries;
	uint8_t prefix_len;
};

struct fib {
	struct fib_peer *peers;
	uint64_t seed[2];
	uint32_t levels4;
	uint32_t levels6;
	struct level senders;
	struct level stations;
	struct level4 level4[33];
	struct level level6[129];
};

static struct key key_of(const uint8_t *address, uint8_t version)
{
	struct key key = {0};

	if (version == 4) {
		key.low = load32(address);
	} else {
		key.high = (uint64_t)load32(address) << 32 | load32(address + 4);
		key.low = (uint64_t)load32(address + 8) << 32 | load32(address + 12);
	}
	return key;
}

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

/* 128-bit products folded to 64: one bit of the key changes about half of the hash. */
static uint64_t mix(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint32_t hash4(const struct fib *fib, uint32_t key)
{
	return (uint32_t)mix(key ^ fib->seed[0], fib->seed[1]);
}

static uint32_t hash(const struct fib *fib, struct key key)
{
	return (uint32_t)mix(mix(key.high ^ fib->seed[0], fib->seed[1]) ^ key.low, fib->seed[1]);
}

static uint32_t capacity_for(uint32_t count)
{
	uint32_t capacity = 8;

	while (capacity < 2 * count)
		capacity *= 2;
	return capacity;
}

/* Find the key's entry, or the empty one where it belongs. Half of the entries are empty, so this ends. */
static struct entry *find(const struct fib *fib, const struct level *level, struct key key)
{
	uint32_t at = hash(fib, key);

	for (;; at++) {
		struct entry *entry = &level->entries[at & (level->capacity - 1)];

		if (!entry->peer || (entry->key.high == key.high && entry->key.low == key.low))
			return entry;
	}
}

static struct entry4 *find4(const struct fib *fib, const struct level4 *level, uint32_t key)
{
	uint32_t at = hash4(fib, key);

	for (;; at++) {
		struct entry4 *entry = &level->entries[at & (level->capacity - 1)];

		if (!entry->peer || entry->key == key)
			return entry;
	}
}

const struct fib_peer *fib_lookup(const struct fib *fib, const uint8_t *address, uint8_t version)
{
	if (version == 4) {
		uint32_t key = load32(address);

		for (uint32_t i = 0; i < fib->levels4; i++) {
			const struct level4 *level = &fib->level4[i];
			uint32_t peer = find4(fib, level, key & level->mask)->peer;

			if (peer)
				return &fib->peers[peer - 1];
		}
		return NULL;
	}

	struct key key = key_of(address, version);

	for (uint32_t i = 0; i < fib->levels6; i++) {
		const struct level *level = &fib->level6[i];
		struct key masked = {key.high & level->mask.high, key.low & level->mask.low};
		uint32_t peer = find(fib, level, masked)->peer;

		if (peer)
			return &fib->peers[peer - 1];
	}
	return NULL;
}

static struct key sender_key(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET) {
		struct key key = key_of((const uint8_t *)&((const struct sockaddr_in *)address)->sin_addr, 4);

		key.high = UINT64_MAX; /* no IPv6 unicast address begins with all ones */
		return key;
	}
	return key_of((const uint8_t *)&((const struct sockaddr_in6 *)address)->sin6_addr, 6);
}

uint32_t fib_sender(const struct fib *fib, const struct sockaddr *address)
{
	return find(fib, &fib->senders, sender_key(address))->peer - 1;
}

static struct key station_key(uint32_t sender, const uint8_t *vtep_mac)
{
	return (struct key){sender, (uint64_t)load16(vtep_mac) << 32 | load32(vtep_mac + 2)};
}

const struct fib_peer *fib_station(const struct fib *fib, uint32_t sender, const uint8_t *vtep_mac)
{
	uint32_t peer = vtep_mac ? find(fib, &fib->stations, station_key(sender, vtep_mac))->peer : sender + 1;

	return peer ? &fib->peers[peer - 1] : NULL;
}

bool fib_is_next_hop(const struct fib_peer *peer, const uint8_t *address, uint8_t version)
{
	if (version == 4)
		return peer->address.sa.sa_family == AF_INET && memcmp(address, &peer->address.in.sin_addr, 4) == 0;
	return peer->address.sa.sa_family == AF_INET6 && memcmp(address, &peer->address.in6.sin6_addr, 16) == 0;
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
