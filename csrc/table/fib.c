/* SPDX-License-Identifier: Apache-2.0 */
#include "table/fib.h"

#include "table/layout.h"

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

uint32_t fib_sender(const struct fib *fib, const struct sockaddr *address)
{
	return find(fib, &fib->senders, sender_key(address))->peer - 1;
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
