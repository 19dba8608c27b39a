/* SPDX-License-Identifier: Apache-2.0 */
/* One forwarder's life as an input tells it: steps.c takes the steps, fuzz_forwarder.c begins and judges. */
#ifndef PLAY_H
#define PLAY_H

#include "kernel/kernel.h"
#include "verdict/verdict.h"
#include "verdict/wholes.h"

#ifdef FORMAT_VXLAN
enum { format = DP_BACKEND_VXLAN };
#elif defined(FORMAT_UDP)
enum { format = DP_BACKEND_UDP };
#endif

enum {
	hops = 4,
	flows = 4,
	steps_max = 64,
	first_nets = 3, /* ours and two peers', of either family */
	arena_max = 1 << 18,
};

struct play {
	struct kernel kernel; /* first: kernel.next gets it */
	const uint8_t *at;
	const uint8_t *end;
	uint32_t steps;
	uint32_t segments;
	uint32_t bytes;
	uint32_t queue;     /* what is offered before the next waking comes by this one, so that flows keep their order */
	bool has_queue;
	struct dp_peer staged[slots];
	struct dp_peer committed[slots];
	uint32_t commits;
	bool is_commit_due; /* packets of one waking see one table */
	uint32_t next_sequence[2][hops][flows]; /* out, in */
	uint32_t forbid;    /* by the next interrupt */
	bool is_unordered;  /* an odd checksum was written over what tells flows apart */
	struct rules rules;
	struct verdict verdict;
	struct wholes wholes;
	uint32_t arena_used;
	uint8_t arena[arena_max];
};

/* Take steps up to the next one after which the worker wakes; false: there is none, and nothing to wake for. */
bool take_steps(struct play *play);

/* Publish what is staged; two slots with one prefix are refused. */
void commit(struct play *play);

/* The peer that has the overlay's net number net, behind the hop. Net 1 is ours. */
struct dp_peer make_peer(uint32_t version, uint32_t net, uint32_t hop, uint32_t mac, uint32_t family);
void set_peer(struct play *play, uint32_t slot, const struct dp_peer *peer);

/* What the input's first four bytes say. */
struct dp_config make_config(const uint8_t *input);

/* Live what the input says, and judge it. */
void live(const uint8_t *input, size_t size);

/* Calls and lives that are always the same (fixed.c). */
void check_fixed(void);

#endif
