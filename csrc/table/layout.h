/* SPDX-License-Identifier: Apache-2.0 */
/* How a forwarding table lies in memory, and how a key is found in it: what building it (build.c) and looking up (fib.c) share.
 *
 * What must stay true: a key is made and hashed in here alone, so that what was put in is found again.
 */
#ifndef LAYOUT_H
#define LAYOUT_H

#include "table/fib.h"

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

static inline struct key key_of(const uint8_t *address, uint8_t version)
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

/* 128-bit products folded to 64: one bit of the key changes about half of the hash. */
static inline uint64_t mix(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint32_t hash4(const struct fib *fib, uint32_t key)
{
	return (uint32_t)mix(key ^ fib->seed[0], fib->seed[1]);
}

static inline uint32_t hash(const struct fib *fib, struct key key)
{
	return (uint32_t)mix(mix(key.high ^ fib->seed[0], fib->seed[1]) ^ key.low, fib->seed[1]);
}

/* Find the key's entry, or the empty one where it belongs. Half of the entries are empty, so this ends. */
static inline struct entry *find(const struct fib *fib, const struct level *level, struct key key)
{
	uint32_t at = hash(fib, key);

	for (;; at++) {
		struct entry *entry = &level->entries[at & (level->capacity - 1)];

		if (!entry->peer || (entry->key.high == key.high && entry->key.low == key.low))
			return entry;
	}
}

static inline struct entry4 *find4(const struct fib *fib, const struct level4 *level, uint32_t key)
{
	uint32_t at = hash4(fib, key);

	for (;; at++) {
		struct entry4 *entry = &level->entries[at & (level->capacity - 1)];

		if (!entry->peer || entry->key == key)
			return entry;
	}
}

static inline struct key sender_key(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET) {
		struct key key = key_of((const uint8_t *)&((const struct sockaddr_in *)address)->sin_addr, 4);

		key.high = UINT64_MAX; /* no IPv6 unicast address begins with all ones */
		return key;
	}
	return key_of((const uint8_t *)&((const struct sockaddr_in6 *)address)->sin6_addr, 6);
}

static inline struct key station_key(uint32_t sender, const uint8_t *vtep_mac)
{
	return (struct key){sender, (uint64_t)load16(vtep_mac) << 32 | load32(vtep_mac + 2)};
}

#endif
