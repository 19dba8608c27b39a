/* SPDX-License-Identifier: Apache-2.0 */
/* Who may get super-packets whole, as decision 0020 says: nobody gets more than a TCP probe in three seconds who has not acknowledged
 * the end of one.
 */
#ifndef WHOLES_H
#define WHOLES_H

#include "verdict/verdict.h"

struct probed {
	struct dp_peer peer;
	bool is_open;
	bool is_proven;
	uint64_t since_ns;
	uint8_t key[36]; /* addresses and ports, as the peer's answers have them */
	uint32_t end;    /* of its TCP bytes */
};

struct wholes {
	struct probed slot[slots];
};

/* A super-packet goes to the TAP, which takes it or not. */
void wholes_left(struct wholes *wholes, const struct rules *rules, uint64_t now_ns, const struct look *super, bool is_refused);

/* A datagram's packet comes. */
void wholes_came(struct wholes *wholes, const struct look *look);

#endif
