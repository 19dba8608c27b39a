/* SPDX-License-Identifier: Apache-2.0 */
/* The overlay edge: the TUN device, with virtio-net headers where it has them (Linux drivers/net/tun.c). */
#ifndef TUN_H
#define TUN_H

#include <linux/if_tun.h>

#include "state/forwarder.h"

/* Linux 6.2; Debian 12's headers know less than its kernels may. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

/* The kind of super-packet that a TCP or UDP packet is one of. */
static inline uint8_t tun_gso_type(const struct ip *ip)
{
	if (ip->proto == proto_udp)
		return VIRTIO_NET_HDR_GSO_UDP_L4;
	return ip->version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
}

/* Which of the wanted TUN offloads the device takes; switches them on (or all off). */
uint32_t tun_probe(int fd, bool vnet_hdr, uint32_t wanted);

/* Read one packet or super-packet from the queue fd to at. Returns its length, 0 when there is none now, or -errno when the device is gone. */
int tun_read(struct worker *w, int fd, uint8_t *at, struct virtio_net_hdr *offload);

/* Write one packet, or several joined, that iov[1..parts) holds; iov[0] is left free for the virtio-net header. Returns false
 * where the TUN did not take it, which is counted, by packets.
 */
bool tun_write(struct worker *w, const struct virtio_net_hdr *offload, struct iovec *iov, uint32_t parts, uint32_t packets);

/* Write an ICMP error about the offender, within a worker's budget of 1,000 a second (Linux' icmp_msgs_per_sec) for each kind:
 * a pod that provokes one kind must not silence another.
 */
void tun_write_icmp(struct worker *w, enum icmp_error error, const struct ip *offender);

#endif
