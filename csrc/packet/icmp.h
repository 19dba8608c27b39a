/* SPDX-License-Identifier: Apache-2.0 */
/* ICMP errors that a router owes (RFC 792, RFC 1812 section 4.3.2, RFC 4443), built as whole IP packets.
 *
 * The form for IPv4 is that of flannel's proxy: IP ID 0, no DF, TTL 8, offender's header and 8 bytes.
 */
#ifndef ICMP_H
#define ICMP_H

#include "dataplane.h"
#include "packet/ip.h"

enum icmp_error {
	icmp_no_route,      /* IPv4 3/0, IPv6 1/0 */
	icmp_ttl_exceeded,  /* IPv4 11/0, IPv6 3/0 */
	icmp_too_big,       /* IPv4 3/4, IPv6 2/0, with the MTU */
	icmp_errors,        /* how many there are */
};

enum { icmp_max = 1280 }; /* an ICMPv6 error never exceeds the least IPv6 MTU */

/* Write the error that tells the sender of offender, and return its length; 0 where none must be sent: an ICMP error or a
 * later fragment offends, its source is no unicast address, or source (our tunnel address) is of another family.
 */
uint32_t icmp_build(uint8_t *out, enum icmp_error error, const struct ip *offender, const struct dp_address *source, uint32_t mtu);

/* Inner router advertisement or redirect: from a peer they could only be an attack on our host's routing. */
bool icmp_is_router_message(const struct ip *ip);

#endif
