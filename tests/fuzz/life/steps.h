/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of a life (steps.c takes one after the other), each reading what it needs from the input. */
#ifndef STEPS_H
#define STEPS_H

#include "life/play.h"

static inline uint32_t take8(struct play *play)
{
	return play->at < play->end ? *play->at++ : 0;
}

static inline uint32_t take16(struct play *play)
{
	uint32_t high = take8(play);

	return high << 8 | take8(play);
}

/* The table (table.c). */
void step_set(struct play *play);
void step_clear(struct play *play);
struct dp_address hop_address(uint32_t hop, uint32_t family);

/* A pod's packet, a peer's train (out.c, in.c). is_raw: the input has its bytes. */
void step_out(struct play *play, bool is_raw);
void step_in(struct play *play, bool is_raw);

/* What both make packets of (packets.c). */

struct made {
	struct twin_spec spec;
	uint32_t hop;
	uint32_t seed;
	uint32_t *next_sequence;
};

/* Between us (net 1) and the net behind a hop; streams go on where their last packet ended. */
struct made make_spec(struct play *play, bool is_in);

/* One byte of one of the packets, each of size bytes with a header of overhead before it; mostly one of its headers'. */
void mutate(struct play *play, uint8_t *data, uint32_t len, uint32_t size, uint32_t overhead);

/* Whether what comes fits an input's budget. */
bool afford(struct play *play, uint32_t segments, uint32_t bytes);

uint8_t *allot(struct play *play, uint32_t len);
struct item *add_item(struct queue *queue);

#endif
