/* SPDX-License-Identifier: Apache-2.0 */
#include "table/fib.h"

#include <errno.h>

#include "harness.h"

enum { slots_max = 10000 };

static struct dp_peer slots[slots_max];

static bool covers(const struct dp_peer *peer, const uint8_t *address)
{
	for (uint32_t bit = 0; bit < peer->prefix_len; bit++)
		if ((peer->prefix.bytes[bit / 8] ^ address[bit / 8]) & (0x80 >> bit % 8))
			return false;
	return true;
}

static const struct dp_peer *slow_lookup(uint32_t count, const uint8_t *address, uint8_t version)
{
	const struct dp_peer *best = NULL;

	for (uint32_t i = 0; i < count; i++)
		if (slots[i].prefix.family == version && covers(&slots[i], address) && (!best || slots[i].prefix_len > best->prefix_len))
			best = &slots[i];
	return best;
}

static bool is_duplicate(uint32_t count, const struct dp_peer *peer)
{
	for (uint32_t i = 0; i < count; i++)
		if (slots[i].prefix.family == peer->prefix.family && slots[i].prefix_len == peer->prefix_len && covers(peer, slots[i].prefix.bytes))
			return true;
	return false;
}

/* Few distinct bytes, so that prefixes nest and neighbours are close. */
static void random_peer(struct dp_peer *peer)
{
	*peer = (struct dp_peer){.local = random_below(20) == 0, .next_hop.family = 4, .prefix.family = random_below(2) ? 4 : 6};
	peer->prefix_len = random_below(peer->prefix.family == 4 ? 33 : 129);
	for (uint32_t i = 0; i < 16; i++)
		peer->prefix.bytes[i] = (uint8_t)(random_below(4) * 85);
	for (uint32_t i = 0; i < 4; i++)
		peer->next_hop.bytes[i] = (uint8_t)(1 + random_below(3));
}

static void longest_prefix_equals_the_slow_twin(void)
{
	for (int round = 0; round < 200; round++) {
		uint32_t count = 0;
		struct fib *fib;

		for (uint32_t i = 0; i < 60; i++) {
			struct dp_peer peer;

			random_peer(&peer);
			if (!is_duplicate(count, &peer))
				slots[count++] = peer;
			else if (random_below(4) == 0)
				slots[count++] = (struct dp_peer){0}; /* a cleared slot */
		}
		CHECK(fib_build(slots, count, 8472, &fib) == 0);
		for (int i = 0; i < 500; i++) {
			uint8_t version = random_below(2) ? 4 : 6;
			uint8_t address[16];

			for (uint32_t j = 0; j < 16; j++)
				address[j] = (uint8_t)(random_below(4) * 85);

			const struct dp_peer *expected = slow_lookup(count, address, version);
			const struct fib_peer *found = fib_lookup(fib, address, version);

			CHECK(!expected == !found);
			if (found)
				CHECK(&slots[found->slot] == expected && found->local == (bool)expected->local);
		}
		fib_free(fib);
	}
}

static void duplicates_are_refused(void)
{
	struct fib *fib;

	slots[0] = (struct dp_peer){.prefix = {4, {10, 244, 1, 0}}, .prefix_len = 24, .next_hop = {4, {192, 0, 2, 1}}};
	slots[1] = slots[0];
	slots[1].prefix.bytes[3] = 77; /* host bits do not make another prefix */
	CHECK(fib_build(slots, 2, 1, &fib) == -EEXIST);
}

static void ten_thousand_peers(void)
{
	struct fib *fib;

	for (uint32_t i = 0; i < slots_max; i++)
		slots[i] = (struct dp_peer){
			.prefix = {4, {10, (uint8_t)(i >> 8), (uint8_t)i, 0}}, .prefix_len = 24,
			.next_hop = {4, {172, 16, (uint8_t)(i >> 8), (uint8_t)i}},
		};
	CHECK(fib_build(slots, slots_max, 8472, &fib) == 0);
	for (uint32_t i = 0; i < slots_max; i++) {
		const struct fib_peer *peer = fib_lookup(fib, (uint8_t[]){10, (uint8_t)(i >> 8), (uint8_t)i, 9}, 4);
		struct sockaddr_in from = {.sin_family = AF_INET};

		CHECK(peer && peer->slot == i);
		memcpy(&from.sin_addr, slots[i].next_hop.bytes, 4);
		CHECK(fib_sender(fib, (struct sockaddr *)&from) == peer->sender);
		CHECK(ntohs(peer->address.in.sin_port) == 8472 && peer->address.in.sin_addr.s_addr == from.sin_addr.s_addr);
	}
	CHECK(!fib_lookup(fib, (uint8_t[]){11, 0, 0, 1}, 4));
	CHECK(!fib_lookup(fib, (uint8_t[16]){10}, 6));
	fib_free(fib);
}

static void senders(void)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = {{{0x20, 1, [15] = 1}}}};
	struct sockaddr_in four = {.sin_family = AF_INET};
	struct fib *fib;

	/* Two prefixes of one node (dual stack), one of another, and our own, which is no sender. */
	slots[0] = (struct dp_peer){.prefix = {6, {0xfd, 1}}, .prefix_len = 64, .next_hop = {6, {0x20, 1, [15] = 1}}};
	slots[1] = (struct dp_peer){.prefix = {6, {0xfd, 2}}, .prefix_len = 64, .next_hop = {6, {0x20, 1, [15] = 1}}};
	slots[2] = (struct dp_peer){.prefix = {6, {0xfd, 3}}, .prefix_len = 64, .next_hop = {6, {0x20, 1, [15] = 2}}};
	slots[3] = (struct dp_peer){.prefix = {6, {0xfd, 4}}, .prefix_len = 64, .local = 1};
	CHECK(fib_build(slots, 4, 1, &fib) == 0);
	CHECK(fib_sender(fib, (struct sockaddr *)&six) == fib_lookup(fib, (uint8_t[16]){0xfd, 1, [15] = 5}, 6)->sender);
	CHECK(fib_sender(fib, (struct sockaddr *)&six) == fib_lookup(fib, (uint8_t[16]){0xfd, 2, [15] = 5}, 6)->sender);
	CHECK(fib_sender(fib, (struct sockaddr *)&six) != fib_lookup(fib, (uint8_t[16]){0xfd, 3, [15] = 5}, 6)->sender);
	six.sin6_addr.s6_addr[15] = 3;
	CHECK(fib_sender(fib, (struct sockaddr *)&six) == fib_nobody);
	memset(&six.sin6_addr, 0, 16);
	CHECK(fib_sender(fib, (struct sockaddr *)&six) == fib_nobody);
	CHECK(fib_sender(fib, (struct sockaddr *)&four) == fib_nobody);
	CHECK(fib_lookup(fib, (uint8_t[16]){0xfd, 4, [15] = 5}, 6)->local);
	fib_free(fib);
}

/* Two prefixes of one VTEP, a second VTEP at its address, and a third elsewhere with the first one's MAC. */
static void stations_are_a_senders_own(void)
{
	static const uint8_t first[6] = {2, 0, 0, 0, 0, 1}, second[6] = {2, 0, 0, 0, 0, 2}, nobodys[6] = {2, 0, 0, 0, 1, 0};
	uint8_t third_host = 2;
	struct fib *fib;

	for (uint32_t i = 0; i < 4; i++) {
		slots[i] = (struct dp_peer){
			.prefix = {4, {10, 244, (uint8_t)i, 0}}, .prefix_len = 24, .next_hop = {4, {192, 0, 2, i == 3 ? third_host : 1}},
		};
		memcpy(slots[i].vtep_mac, i == 2 ? second : first, 6);
	}
	slots[4] = (struct dp_peer){.prefix = {4, {10, 244, 4, 0}}, .prefix_len = 24, .local = 1};
	memcpy(slots[4].vtep_mac, nobodys, 6);
	CHECK(fib_build(slots, 5, 8472, &fib) == 0);

	uint32_t here = fib_lookup(fib, (uint8_t[]){10, 244, 0, 1}, 4)->sender;
	uint32_t there = fib_lookup(fib, (uint8_t[]){10, 244, 3, 1}, 4)->sender;

	CHECK(fib_station(fib, here, first)->slot == 0);
	CHECK(fib_station(fib, here, second)->slot == 2);
	CHECK(fib_station(fib, there, first)->slot == 3);
	CHECK(!fib_station(fib, there, second));
	CHECK(!fib_station(fib, here, nobodys)); /* ours is no station */
	CHECK(fib_station(fib, here, NULL)->sender == here && fib_station(fib, there, NULL)->slot == 3);
	fib_free(fib);
}

int main(void)
{
	harness_begin();
	RUN(longest_prefix_equals_the_slow_twin);
	RUN(duplicates_are_refused);
	RUN(ten_thousand_peers);
	RUN(senders);
	RUN(stations_are_a_senders_own);
	return harness_end();
}
