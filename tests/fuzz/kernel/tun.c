/* SPDX-License-Identifier: Apache-2.0 */
/* The TUN's queues, and the TAP that takes super-packets whole: super-packets and unfinished checksums are done as Linux does. */
#include <errno.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#include "edges/tun.h"
#include "kernel/kernel.h"

ssize_t __wrap_readv(int fd, const struct iovec *iov, int parts);
ssize_t __wrap_read(int fd, void *out, size_t len);
ssize_t __wrap_writev(int fd, const struct iovec *iov, int parts);
int __wrap_ioctl(int fd, unsigned long request, ...);

ssize_t __real_readv(int fd, const struct iovec *iov, int parts);
ssize_t __real_read(int fd, void *out, size_t len);
ssize_t __real_writev(int fd, const struct iovec *iov, int parts);

static bool is_tun(int fd)
{
	return fd >= kernel_tun_fd && fd < kernel_tun_fd + kernel_queues;
}

static ssize_t tun_take(int fd, struct virtio_net_hdr *offload, uint8_t *out, size_t room)
{
	struct queue *queue = &kernel->tun[fd - kernel_tun_fd];
	const struct item *item;

	CHECK(!offload == !kernel->dp->config.vnet_hdr);
	if (kernel_is_due(call_tun_read)) {
		kernel_fail(call_tun_read);
		if (errno)
			return -1;
		return offload ? (ssize_t)sizeof(*offload) - 1 : 0;
	}
	if (queue->taken == queue->used) {
		errno = EAGAIN;
		return -1;
	}
	item = &queue->item[queue->taken++];
	CHECK(item->len <= room);
	memcpy(out, item->data, item->len);
	kernel->seen.tun_reads++;
	if (!offload)
		return item->len;
	*offload = item->offload;
	return (ssize_t)sizeof(*offload) + item->len;
}

ssize_t __wrap_readv(int fd, const struct iovec *iov, int parts)
{
	if (!is_tun(fd))
		return __real_readv(fd, iov, parts);
	CHECK(parts == 2 && iov[0].iov_len == sizeof(struct virtio_net_hdr));
	return tun_take(fd, iov[0].iov_base, iov[1].iov_base, iov[1].iov_len);
}

ssize_t __wrap_read(int fd, void *out, size_t len)
{
	return is_tun(fd) ? tun_take(fd, NULL, out, len) : __real_read(fd, out, len);
}

static uint32_t gather(uint8_t *out, uint32_t room, const struct iovec *iov, int parts)
{
	uint32_t len = 0;

	for (int i = 0; i < parts; i++) {
		CHECK(len + iov[i].iov_len <= room);
		memcpy(out + len, iov[i].iov_base, iov[i].iov_len);
		len += (uint32_t)iov[i].iov_len;
	}
	return len;
}

static uint8_t gso_type_of(const struct look *look)
{
	if (look->proto == proto_udp)
		return VIRTIO_NET_HDR_GSO_UDP_L4;
	return look->version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
}

/* The packets in the super-packet, or 0 where it is none. */
static uint32_t check_super(const struct virtio_net_hdr *offload, const uint8_t *packet, uint32_t len, struct look *look)
{
	if (!offload || offload->gso_type == VIRTIO_NET_HDR_GSO_NONE)
		return 0;
	CHECK(kernel->dp->offloads & (offload->gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 ? DP_OFFLOAD_TUN_USO : DP_OFFLOAD_TUN_GSO));
	CHECK(look_at(packet, len, look) && look->len == len && look->proto && offload->gso_type == gso_type_of(look));
	CHECK(offload->flags == VIRTIO_NET_HDR_F_NEEDS_CSUM && offload->csum_start == look->l4);
	CHECK(offload->csum_start + offload->csum_offset == look_checksum_at(look));
	CHECK(load16(packet + look_checksum_at(look)) == look_pseudo(look, len - look->l4));
	CHECK(look->proto == proto_tcp || load16(packet + look->l4 + 4) == len - look->l4);
	CHECK(offload->gso_size && offload->hdr_len == look_headers(look) && len > (uint32_t)offload->hdr_len + offload->gso_size);
	return cut_count(look, offload->gso_size);
}

static void count_refused(uint32_t packets)
{
	if (errno == EAGAIN || errno == ENOBUFS)
		kernel->seen.drop_tun_full += packets;
	else
		kernel->seen.drop_tun_error += packets;
}

static ssize_t tun_put(const struct virtio_net_hdr *offload, const struct iovec *iov, int parts, bool is_refused)
{
	static uint8_t packet[packet_max], one[packet_max];
	const struct dp_config *config = &kernel->dp->config;
	uint32_t len = gather(packet, sizeof(packet), iov, parts), count;
	struct look look;

	count = check_super(offload, packet, len, &look);
	if (is_refused) {
		kernel_fail(call_tun_write);
		if (errno != EINTR)
			count_refused(count ? count : 1);
		return -1;
	}
	kernel->seen.tun_writes++;
	if (offload && offload->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		CHECK(kernel->dp->offloads & DP_OFFLOAD_TUN_GSO);
		CHECK(offload->csum_start + offload->csum_offset + 2u <= len);
		cut_finish_checksum(packet, len, offload->csum_start, offload->csum_offset);
	}
	if (!count)
		record_host(&kernel->host, config, packet, len, 0);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t segment = cut_segment(one, &look, offload->gso_size, i);

		record_host(&kernel->host, config, one, segment, 0);
	}
	return len;
}

/* The TAP: every segment must be a datagram that a source socket could have sent. VIRTIO 1.4 section 5.1.6. */

struct tunnel_header {
	struct virtio_net_hdr base;
	uint8_t unused[10];
	uint16_t outer_th;
	uint16_t inner_nh;
};

/* The outer headers are those that the socket would have made; returns where they lead to. */
static union underlay_address check_outer(const uint8_t *frame, uint32_t len, uint32_t udp_at, uint8_t *tos)
{
	const uint8_t *ip = frame + ethernet_header, *udp = frame + udp_at;
	bool is_ipv4 = kernel->dp->config.underlay_family == 4;
	union underlay_address to = {0}, own = {0};
	uint32_t udp_len = len - udp_at, source = load16(udp) - kernel_source_port;
	socklen_t own_len = sizeof(own);

	CHECK(source < kernel->dp->config.sources);
	CHECK(getsockname(kernel_source_fd + (int)source, &own.sa, &own_len) == 0);
	CHECK(load16(frame + 12) == (is_ipv4 ? 0x0800 : 0x86dd));
	CHECK(load16(udp + 4) == udp_len && load16(udp + 6) == twin_pseudo(ip, udp_len, proto_udp));
	if (is_ipv4) {
		static const uint8_t whole[2];

		CHECK(ip[0] == 0x45 && load16(ip + 2) == len - ethernet_header && ip[8] == 64 && ip[9] == proto_udp);
		CHECK(memcmp(ip + 6, whole, 2) == 0 && twin_checksum(ip, 20, 0) == 0 && memcmp(ip + 12, &own.in.sin_addr, 4) == 0);
		*tos = ip[1];
		to.in.sin_family = AF_INET;
		memcpy(&to.in.sin_addr, ip + 16, 4);
		memcpy(&to.in.sin_port, udp + 2, 2);
	} else {
		CHECK(ip[0] == 0x60 && load16(ip + 4) == udp_len && ip[6] == proto_udp && ip[7] == 64);
		CHECK(memcmp(ip + 8, &own.in6.sin6_addr, 16) == 0);
		*tos = (uint8_t)(ip[1] >> 4);
		to.in6.sin6_family = AF_INET6;
		memcpy(&to.in6.sin6_addr, ip + 24, 16);
		memcpy(&to.in6.sin6_port, udp + 2, 2);
	}
	return to;
}

static ssize_t tunnel_put(const struct iovec *iov, int parts, bool is_refused)
{
	static uint8_t frame[ethernet_header + ipv6_header + packet_max], one[packet_max];
	const struct dp *dp = kernel->dp;
	bool is_ipv4 = dp->config.underlay_family == 4;
	uint32_t udp = ethernet_header + (is_ipv4 ? 20 : 40), overhead = dp->encap.overhead, inner = udp + 8 + overhead, len;
	union underlay_address to;
	struct tunnel_header header;
	struct look look;
	uint8_t tos;

	CHECK(iov[0].iov_len == sizeof(header));
	memcpy(&header, iov[0].iov_base, sizeof(header));
	len = gather(frame, sizeof(frame), iov + 1, parts - 1);
	CHECK(len > inner && len - ethernet_header <= packet_max && header.outer_th == udp && header.inner_nh == inner);
	CHECK(look_at(frame + inner, len - inner, &look) && inner + look.len == len && look.proto);
	to = check_outer(frame, len, udp, &tos);

	bool has_cwr = look.proto == proto_tcp && look.data[look.l4 + 13] & 0x80;

	CHECK(header.base.flags == (VIRTIO_NET_HDR_F_NEEDS_CSUM | 8) && header.base.csum_start == inner + look.l4);
	CHECK(header.base.csum_start + header.base.csum_offset == inner + look_checksum_at(&look));
	CHECK(load16(frame + inner + look_checksum_at(&look)) == look_pseudo(&look, look.len - look.l4));
	CHECK(header.base.gso_type ==
	      (gso_type_of(&look) | (is_ipv4 ? 0x20 : 0x40) | (has_cwr ? VIRTIO_NET_HDR_GSO_ECN : 0)));
	CHECK(header.base.hdr_len == inner + look_headers(&look) && header.base.gso_size);
	CHECK(look_headers(&look) + header.base.gso_size <= dp->config.mtu); /* the underlay device fragments none */
	kernel->on_whole(kernel, &look, is_refused);
	if (is_refused)
		return kernel_fail(call_tunnel_write);
	kernel->seen.tunnel_sends++;
	memcpy(one, frame + udp + 8, overhead);
	for (uint32_t i = 0; i < cut_count(&look, header.base.gso_size); i++) {
		uint32_t segment = cut_segment(one + overhead, &look, header.base.gso_size, i);

		record_wire(&kernel->wire, &to, tos, one, overhead + segment, overhead, load16(frame + udp) - kernel_source_port, 0);
	}
	return len;
}

ssize_t __wrap_writev(int fd, const struct iovec *iov, int parts)
{
	bool vnet_hdr, is_refused;

	if (fd < kernel_fd)
		return __real_writev(fd, iov, parts);
	CHECK(parts <= iovecs_max && (fd == kernel_tun_fd || fd == kernel_tunnel_fd));
	is_refused = kernel_is_due(fd == kernel_tun_fd ? call_tun_write : call_tunnel_write);
	if (fd == kernel_tunnel_fd)
		return tunnel_put(iov, parts, is_refused);
	vnet_hdr = kernel->dp->config.vnet_hdr;
	CHECK(!vnet_hdr || iov[0].iov_len == sizeof(struct virtio_net_hdr));
	return tun_put(vnet_hdr ? iov[0].iov_base : NULL, iov + vnet_hdr, parts - vnet_hdr, is_refused);
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	uint32_t option;
	unsigned long value;
	va_list arguments;

	va_start(arguments, request);
	value = va_arg(arguments, unsigned long);
	va_end(arguments);
	errno = EINVAL;
	if (fd == kernel_tunnel_fd) {
		CHECK(request == TUNSETVNETHDRSZ ? *(int *)value == sizeof(struct tunnel_header) : request == TUNSETOFFLOAD);
		option = request == TUNSETOFFLOAD ? DP_OFFLOAD_TUNNEL_GSO : DP_OFFLOAD_COALESCE;
	} else {
		CHECK(fd == kernel_tun_fd && request == TUNSETOFFLOAD);
		option = !value ? 0 : value & TUN_F_USO4 ? DP_OFFLOAD_TUN_USO : DP_OFFLOAD_TUN_GSO;
	}
	return kernel->refused & option ? -1 : 0;
}
