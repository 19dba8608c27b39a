/* SPDX-License-Identifier: Apache-2.0 */
/* VXLAN as the kernel's device speaks it under flannel (RFC 7348 section 5, Linux drivers/net/vxlan):
 *
 *    0        1 .. 3     4 .. 6  7        8 .. 13     14 .. 19    20 .. 21
 *   +--------+----------+-------+--------+-----------+-----------+-----------+----------
 *   | 0x08   | reserved | VNI   | resvd  | peer's    | own       | 0x0800 or | inner IP
 *   | I flag | 0        |       | 0      | VTEP MAC  | VTEP MAC  | 0x86dd    | packet
 *   +--------+----------+-------+--------+-----------+-----------+-----------+----------
 *
 * A set bit that we do not know changes the meaning of the frame (GBP, GPE), so such a frame is refused, as Linux does.
 */
#include "encap/encap.h"

static const uint8_t flags_and_reserved[4] = {0x08};

void encap_vxlan_init(struct encap *encap, uint32_t vni, const uint8_t vtep_mac[6])
{
	*encap = (struct encap){.overhead = vxlan_overhead, .carries_ecn = true, .entropy = true};
	store32(encap->vni, vni << 8);
	memcpy(encap->vtep_mac, vtep_mac, 6);
}

void encap_vxlan_push(const struct encap *encap, uint8_t *inner, uint8_t version, const struct fib_peer *peer)
{
	uint8_t *at = inner - vxlan_overhead;

	memcpy(at, flags_and_reserved, 4);
	memcpy(at + 4, encap->vni, 4);
	memcpy(at + 8, peer->vtep_mac, 6);
	memcpy(at + 14, encap->vtep_mac, 6);
	store16(at + 20, version == 4 ? ethertype_ipv4 : ethertype_ipv6);
}

enum vxlan_fault encap_vxlan_pull(const struct encap *encap, const uint8_t *datagram)
{
	const uint8_t *ethernet = datagram + vxlan_header;
	uint16_t type = load16(ethernet + 12);
	uint8_t version = datagram[vxlan_overhead] >> 4;

	if (memcmp(datagram, flags_and_reserved, 4) != 0 || datagram[7] != 0)
		return vxlan_fault_flags;
	if (memcmp(datagram + 4, encap->vni, 3) != 0)
		return vxlan_fault_vni;
	if (memcmp(ethernet, encap->vtep_mac, 6) != 0)
		return vxlan_fault_mac;
	if ((type != ethertype_ipv4 || version != 4) && (type != ethertype_ipv6 || version != 6))
		return vxlan_fault_type;
	return vxlan_ok;
}
