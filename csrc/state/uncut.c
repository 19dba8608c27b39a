/* SPDX-License-Identifier: Apache-2.0 */
#include "state/uncut.h"

#include <time.h>

enum {
	probe_ms = 3000,         /* longer than a TCP waits before it sends again (RFC 6298: 1 s at first) */
	refused_ms = 10 * 60 * 1000,
};

enum state {
	state_unknown,
	state_claimed, /* by the worker that is writing down its probe */
	state_probing,
	state_proven,
	state_doubted, /* one probe was lost, perhaps by accident */
	state_refused,
};

/* The word: identity of the peer, number of the probe, state. */
enum { state_bits = 3, state_mask = (1 << state_bits) - 1 };

static uint64_t word_of(uint64_t before, const struct fib_peer *peer, enum state state)
{
	uint32_t number = (uint32_t)before >> state_bits;

	return (uint64_t)peer->identity << 32 | (uint32_t)((number + (state == state_claimed)) << state_bits) | state;
}

static enum state state_of(uint64_t word, const struct fib_peer *peer)
{
	return word >> 32 == peer->identity ? (enum state)(word & state_mask) : state_unknown;
}

static uint32_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint32_t)((uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000);
}

static uint32_t load(const _Atomic(uint32_t) *field)
{
	return atomic_load_explicit(field, memory_order_relaxed);
}

static void store(_Atomic(uint32_t) *field, uint32_t value)
{
	atomic_store_explicit(field, value, memory_order_relaxed);
}

static bool change(struct dp *dp, struct uncut *uncut, uint64_t from, uint64_t to)
{
	if (!atomic_compare_exchange_strong(&uncut->word, &from, to))
		return false;
	if ((from & state_mask) == state_probing)
		atomic_fetch_sub(&dp->probes, 1);
	if ((to & state_mask) == state_probing)
		atomic_fetch_add(&dp->probes, 1);
	return true;
}

static uint32_t tcp_payload(const struct ip *ip)
{
	return ip->len - ip->l4 - (uint32_t)(ip->data[ip->l4 + 12] >> 4) * 4;
}

bool uncut_allows(struct dp *dp, const struct fib_peer *peer, const struct ip *ip, uint32_t headers, uint64_t *probe)
{
	struct uncut *uncut = &dp->uncut[peer->slot];
	uint64_t word = atomic_load_explicit(&uncut->word, memory_order_acquire);
	enum state state = state_of(word, peer);
	uint32_t now;

	*probe = 0;
	if (state == state_proven)
		return true;
	if (ip->proto != proto_tcp || state == state_claimed)
		return false;
	now = now_ms();
	if ((state == state_probing || state == state_doubted) && now - load(&uncut->since_ms) < probe_ms)
		return false;
	if (state == state_refused && now - load(&uncut->since_ms) < refused_ms)
		return false;

	uint64_t claimed = word_of(word, peer, state_claimed);
	uint32_t sequence = load32(ip->data + ip->l4 + 4);

	if (!change(dp, uncut, word, claimed))
		return false;
	store(&uncut->since_ms, now);
	store(&uncut->is_second, state == state_doubted || (state == state_probing && load(&uncut->is_second)));
	store(&uncut->flow, ip_flow_hash(ip));
	store(&uncut->ports, load32(ip->data + ip->l4));
	store(&uncut->start, sequence);
	store(&uncut->end, sequence + ip->len - headers);
	*probe = word_of(claimed, peer, state_probing);
	return change(dp, uncut, claimed, *probe);
}

void uncut_forget(struct dp *dp, const struct fib_peer *peer, uint64_t probe)
{
	change(dp, &dp->uncut[peer->slot], probe, word_of(probe, peer, state_unknown));
}

void uncut_sent(struct dp *dp, const struct fib_peer *peer, const struct ip *ip)
{
	struct uncut *uncut = &dp->uncut[peer->slot];
	uint64_t word = atomic_load_explicit(&uncut->word, memory_order_acquire);

	if (state_of(word, peer) != state_probing || ip->proto != proto_tcp)
		return;
	if (load32(ip->data + ip->l4) != load(&uncut->ports) || ip_flow_hash(ip) != load(&uncut->flow))
		return;

	uint32_t sequence = load32(ip->data + ip->l4 + 4), payload = tcp_payload(ip);

	if (!payload || (int32_t)(sequence - load(&uncut->end)) >= 0 || (int32_t)(sequence + payload - load(&uncut->start)) <= 0)
		return;
	if (change(dp, uncut, word, word_of(word, peer, load(&uncut->is_second) ? state_refused : state_doubted)))
		store(&uncut->since_ms, now_ms());
}

void uncut_received(struct dp *dp, const struct fib_peer *peer, const struct ip *ip)
{
	struct uncut *uncut = &dp->uncut[peer->slot];
	uint64_t word = atomic_load_explicit(&uncut->word, memory_order_acquire);
	const uint8_t *l4 = ip->data + ip->l4;

	if (state_of(word, peer) != state_probing || ip->proto != proto_tcp || !(l4[tcp_flags_at] & tcp_flag_ack))
		return;
	if (((uint32_t)load16(l4 + 2) << 16 | load16(l4)) != load(&uncut->ports) || ip_reverse_hash(ip) != load(&uncut->flow))
		return;
	if ((int32_t)(load32(l4 + 8) - load(&uncut->end)) >= 0)
		change(dp, uncut, word, word_of(word, peer, state_proven));
}
