/* SPDX-License-Identifier: Apache-2.0 */
/* What the rules of both directions share (verdict.h). */
#ifndef BOTH_H
#define BOTH_H

#include "verdict/verdict.h"

enum { headers_most = 120 }; /* of a packet that is cut */

/* No single node's: multicast, broadcast, class E, unspecified ("this network"), of IPv6 link-local. */
bool is_nobodys(const uint8_t *address, uint8_t version);

/* The ICMP error about a packet, where one may be sent. */
void owe_error(struct verdict *verdict, const struct rules *rules, enum icmp_error kind, const struct look *about);

void lower_ttl(uint8_t *packet, const struct look *look);

#endif
