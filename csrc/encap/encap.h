/* SPDX-License-Identifier: Apache-2.0 */
/* The wire formats: what stands between the outer UDP header and the inner IP packet.
 *
 * push writes the header in front of a packet; pull verifies the header of a received datagram and says where the inner
 * packet begins. Neither looks at the inner IP packet; that is common to both formats and stands in send/ and receive/.
 */
#ifndef ENCAP_H
#define ENCAP_H

#include "table/fib.h"

struct encap {
	uint32_t overhead;      /* bytes in front of the inner packet: udp 0, vxlan 22 */
	bool decrements_ttl;    /* flannel's udp counts as a hop at each end; vxlan is a link */
	bool carries_ecn;       /* RFC 6040; flannel's udp proxies ignore the outer header, so marks on it would be lost */
	bool entropy;           /* the flow chooses the outer source port */
	uint8_t vni[4];         /* as on the wire: 24 bits, then the reserved byte */
	uint8_t vtep_mac[6];
};

enum {
	vxlan_header = 8,
	ethernet_header = 14,
	vxlan_overhead = vxlan_header + ethernet_header,
	encap_overhead_max = vxlan_overhead,
	ethertype_ipv4 = 0x0800,
	ethertype_ipv6 = 0x86dd,
};

void encap_udp_init(struct encap *encap);
void encap_vxlan_init(struct encap *encap, uint32_t vni, const uint8_t vtep_mac[6]);

/* Write overhead bytes so that they end where the inner packet begins. */
void encap_vxlan_push(const struct encap *encap, uint8_t *inner, uint8_t version, const struct fib_peer *peer);

enum vxlan_fault {
	vxlan_ok,
	vxlan_fault_flags,
	vxlan_fault_vni,
	vxlan_fault_mac,
	vxlan_fault_type,
};

/* Check the header of a datagram that has at least vxlan_overhead bytes and an IP header behind them. */
enum vxlan_fault encap_vxlan_pull(const struct encap *encap, const uint8_t *datagram);

/* The VTEP MAC that the datagram claims; compared with the peer's once the peer is known. */
static inline const uint8_t *encap_vxlan_sender_mac(const uint8_t *datagram)
{
	return datagram + vxlan_header + 6;
}

#endif
