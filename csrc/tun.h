/* SPDX-License-Identifier: Apache-2.0 */
/* The overlay edge: the TUN device, with virtio-net headers where it has them (Linux drivers/net/tun.c). */
#ifndef TUN_H
#define TUN_H

#include "forwarder.h"

/* Which of the wanted TUN offloads the device takes; switches them on (or all off). */
uint32_t tun_probe(int fd, bool vnet_hdr, uint32_t wanted);

/* Read one packet or super-packet to at. Returns its length, 0 when there is none now, or -errno when the device is gone. */
int tun_read(struct worker *w, uint8_t *at, struct virtio_net_hdr *offload);

/* Write one packet, or several joined, that iov[1..parts) holds; iov[0] is left free for the virtio-net header. Failures are
 * counted, by packets.
 */
void tun_write(struct worker *w, const struct virtio_net_hdr *offload, struct iovec *iov, uint32_t parts, uint32_t packets);

/* Write an ICMP error about the offender, within a worker's budget of 1,000 a second (Linux' icmp_msgs_per_sec) for each kind:
 * a pod that provokes one kind must not silence another.
 */
void tun_write_icmp(struct worker *w, enum icmp_error error, const struct ip *offender);

#endif
