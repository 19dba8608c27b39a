/* SPDX-License-Identifier: Apache-2.0 */
/* Peers come, go and change, and are published as a whole. */
#include <errno.h>

#include "life/steps.h"

static bool same_prefix(const struct dp_peer *a, const struct dp_peer *b)
{
	return a->prefix.family == b->prefix.family && a->prefix_len == b->prefix_len &&
	       same_bits(a->prefix.bytes, b->prefix.bytes, a->prefix_len);
}

void commit(struct play *play)
{
	bool is_double = false;
	int error = dp_commit(play->kernel.dp);

	for (uint32_t i = 0; i < slots; i++)
		for (uint32_t j = 0; j < i; j++)
			is_double |= play->staged[i].prefix.family && same_prefix(&play->staged[i], &play->staged[j]);
	CHECK(error == (is_double ? -EEXIST : 0));
	if (!error)
		memcpy(play->committed, play->staged, sizeof(play->staged));
	play->commits += !error;
}

struct dp_address hop_address(uint32_t hop, uint32_t family)
{
	if (family == 4)
		return (struct dp_address){4, {192, 0, 2, (uint8_t)(2 + hop)}};
	return (struct dp_address){6, {0xfd, 0x99, [15] = (uint8_t)(2 + hop)}};
}

struct dp_peer make_peer(uint32_t version, uint32_t net, uint32_t hop, uint32_t mac, uint32_t family)
{
	struct dp_peer peer = {.prefix_len = version == 4 ? 24 : 64, .next_hop = hop_address(hop, family), .local = net == 1};

	if (version == 4)
		peer.prefix = (struct dp_address){4, {10, 5, (uint8_t)net, 0}};
	else
		peer.prefix = (struct dp_address){6, {0xfd, (uint8_t)net}};
	memcpy(peer.vtep_mac, (uint8_t[6]){2, 0, 0, 0, 0, (uint8_t)mac}, 6);
	return peer;
}

void set_peer(struct play *play, uint32_t slot, const struct dp_peer *peer)
{
	CHECK(dp_peer_set(play->kernel.dp, slot, peer) == 0);
	play->staged[slot] = *peer;
}

void step_set(struct play *play)
{
	static const uint8_t lengths[2][8] = {{24, 16, 32, 0, 24, 31, 30, 1}, {64, 48, 128, 7, 64, 65, 127, 0}};
	uint32_t slot = take8(play) % slots, what = take8(play), more = take8(play);
	uint32_t version = what & 1 ? 6 : 4;
	uint32_t family = play->kernel.dp->config.underlay_family;
	struct dp_peer peer = make_peer(version, 1 + (what >> 1 & 7), what >> 4 & 3, 2 + (what >> 6), family);

	peer.local = more & 4 ? !peer.local : peer.local;
	peer.prefix_len = lengths[version == 6][(more & 3) | (more >> 2 & 4)];
	if (peer.prefix_len > 24 && version == 4)
		peer.prefix.bytes[3] = 8;
	if (more & 8) {
		struct dp_peer wrong = peer;

		wrong.next_hop.family = 10 - (uint8_t)family;
		wrong.local = 0;
		CHECK(dp_peer_set(play->kernel.dp, slot, &wrong) == -EAFNOSUPPORT);
		wrong = peer;
		wrong.prefix_len = version == 4 ? 33 : 129;
		CHECK(dp_peer_set(play->kernel.dp, slot, &wrong) == -EINVAL);
		wrong.prefix = (struct dp_address){.family = 5};
		wrong.prefix_len = 8;
		CHECK(dp_peer_set(play->kernel.dp, slot, &wrong) == -EINVAL);
		CHECK(dp_peer_set(play->kernel.dp, DP_MAX_PEERS, &peer) == -EINVAL);
		CHECK(dp_peer_clear(play->kernel.dp, DP_MAX_PEERS) == -EINVAL);
	}
	set_peer(play, slot, &peer);
}

void step_clear(struct play *play)
{
	uint32_t slot = take8(play) % slots;

	CHECK(dp_peer_clear(play->kernel.dp, slot) == 0);
	play->staged[slot].prefix.family = 0;
}
