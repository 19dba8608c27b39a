/* SPDX-License-Identifier: Apache-2.0 */
/* Who takes a super-packet whole. A lease does not tell, and who does not would be starved, so each peer is tried:
 *
 *   unknown ── the first TCP super-packet goes whole ──> probing ── its end is acknowledged ──> proven
 *      ^                                                    │ ── some of it is sent again ────> doubted
 *      └──────────── neither within probe_ms ───────────────┘
 *
 * A probe may be lost by accident, so a doubted peer is tried once more, probe_ms later: if some of that probe is sent again too
 * the peer is refused, and unknown again after refused_ms.
 *
 * What must stay true:
 *   - only to a proven peer does more than one probe at a time leave whole;
 *   - all workers share the state: an ACK may come to another worker than the one that sent the probe. The word changes by
 *     compare-and-exchange alone, and each probe has a number of its own in it, so what was read of a probe that has ended
 *     decides nothing;
 *   - the word names the peer that it is about: another one in the same slot begins as unknown.
 */
#ifndef UNCUT_H
#define UNCUT_H

#include "state/forwarder.h"

/* Whether the super-packet may leave whole; if it may as a probe, *probe is its word, else 0. */
bool uncut_allows(struct dp *dp, const struct fib_peer *peer, const struct ip *ip, uint32_t headers, uint64_t *probe);

/* The probe could not be sent. */
void uncut_forget(struct dp *dp, const struct fib_peer *peer, uint64_t probe);

/* What is left to do for a packet that goes to the peer or comes from it while some probe is open. */
void uncut_sent(struct dp *dp, const struct fib_peer *peer, const struct ip *ip);
void uncut_received(struct dp *dp, const struct fib_peer *peer, const struct ip *ip);

/* The one test that packets pay for while no probe is open. */
static inline bool uncut_is_probing(const struct dp *dp)
{
	return atomic_load_explicit(&dp->probes, memory_order_relaxed) != 0;
}

#endif
