/* SPDX-License-Identifier: Apache-2.0 */
/* The forwarding table: overlay prefix → peer (longest prefix), underlay address → sender, sender and VTEP MAC → peer.
 *
 * Built whole (build.c), then never changed. For each prefix length in use there is one open-addressing hash table, searched from the
 * longest length down; a cluster uses one or two lengths, so a look-up is one or two probes whether it has 2 peers or 10,000.
 * Hashes are seeded at random for each table: lease data is hostile and must not choose collisions.
 */
#ifndef FIB_H
#define FIB_H

#include <netinet/in.h>

#include "dataplane.h"
#include "packet/packet.h"

union underlay_address {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

struct fib_peer {
	uint32_t slot;
	uint32_t identity;      /* of its VTEP: underlay address and MAC, so that another one in the same slot shows */
	uint32_t sender;        /* number of its underlay address in this table; peers that share an address share it */
	bool local;
	bool has_broadcast;     /* our own IPv4 subnet, if it is large enough to have a broadcast address */
	uint8_t broadcast[4];
	uint8_t vtep_mac[6];
	socklen_t address_len;
	union underlay_address address; /* next hop, ready for sendmsg */
};

struct fib;

enum { fib_nobody = UINT32_MAX };

/* Build from the slots whose prefix.family is set. port is the next hops' UDP port, host order.
 * Returns 0, -ENOMEM, or -EEXIST when two slots hold the same prefix.
 */
int fib_build(const struct dp_peer *slots, uint32_t count, uint16_t port, struct fib **out);
void fib_free(struct fib *fib);

/* The peer whose prefix is the longest match for the address (4 or 16 bytes), or NULL. */
const struct fib_peer *fib_lookup(const struct fib *fib, const uint8_t *address, uint8_t version);

/* The sender number of an underlay address, or fib_nobody. */
uint32_t fib_sender(const struct fib *fib, const struct sockaddr *address);

/* One of the sender's peers that has this VTEP MAC (NULL: the wire format has none), or NULL. */
const struct fib_peer *fib_station(const struct fib *fib, uint32_t sender, const uint8_t *vtep_mac);

/* Whether the inner address is the underlay address that the peer is reached at. */
bool fib_is_next_hop(const struct fib_peer *peer, const uint8_t *address, uint8_t version);

#endif
