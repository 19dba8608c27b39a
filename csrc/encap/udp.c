/* SPDX-License-Identifier: Apache-2.0 */
/* flannel's udp: the datagram's payload is the inner IP packet, nothing else (flannel pkg/backend/udp/proxy_amd64.c). */
#include "encap/encap.h"

void encap_udp_init(struct encap *encap)
{
	*encap = (struct encap){.overhead = 0, .decrements_ttl = true};
}
