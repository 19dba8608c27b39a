/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel.h"

#include <errno.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sanitizer/asan_interface.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <time.h>

#include "cut.h"
#include "tun.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
	datagram_max = 65507, /* over IPv4 */
	wire_segments_max = 64,
	iovecs_max = 1024,
};

struct kernel *kernel;
uint32_t kernel_allocations;

const char *__asan_default_options(void);

/* Tables come and go with every input: a large quarantine is all page faults. */
const char *__asan_default_options(void)
{
	return "quarantine_size_mb=4";
}

ssize_t __wrap_readv(int fd, const struct iovec *iov, int parts);
ssize_t __wrap_read(int fd, void *out, size_t len);
ssize_t __wrap_writev(int fd, const struct iovec *iov, int parts);
ssize_t __wrap_write(int fd, const void *from, size_t len);
int __wrap_close(int fd);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags);
int __wrap_epoll_create1(int flags);
int __wrap_epoll_ctl(int wait_fd, int operation, int fd, struct epoll_event *event);
int __wrap_epoll_wait(int wait_fd, struct epoll_event *events, int most, int timeout);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t len);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *len);
int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *len);
int __wrap_eventfd(unsigned int initial, int flags);
ssize_t __wrap_getrandom(void *out, size_t len, unsigned int flags);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);

ssize_t __real_readv(int fd, const struct iovec *iov, int parts);
ssize_t __real_read(int fd, void *out, size_t len);
ssize_t __real_writev(int fd, const struct iovec *iov, int parts);
ssize_t __real_write(int fd, const void *from, size_t len);
int __real_close(int fd);
int __real_clock_gettime(clockid_t clock, struct timespec *now);
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);

static bool is_due(enum call call)
{
	struct fault *fault = &kernel->fault[call];

	if (kernel->interrupt_after && --kernel->interrupt_after == 0)
		kernel->interrupt(kernel);
	if (!fault->times)
		return false;
	if (fault->skip) {
		fault->skip--;
		return false;
	}
	return true;
}

static bool is_fatal(enum call call, int error)
{
	switch (call) {
	case call_wait:
		return error != EINTR;
	case call_tun_read:
		return error != EINTR && error != EAGAIN;
	case call_recvmmsg:
		return error == EBADF || error == EINVAL;
	default:
		return false;
	}
}

static int fail(enum call call)
{
	kernel->fault[call].times--;
	kernel->fatal_faults += is_fatal(call, kernel->fault[call].error);
	errno = kernel->fault[call].error;
	return -1;
}

static uint64_t digest(uint64_t state, const void *data, size_t len)
{
	const uint8_t *at = data;

	for (; len >= 8; at += 8, len -= 8) {
		uint64_t word;

		memcpy(&word, at, 8);
		state = (state ^ word) * 0x9e3779b97f4a7c15u;
		state ^= state >> 29;
	}
	for (; len; at++, len--)
		state = (state ^ *at) * 0x100000001b3u;
	return state ^ state >> 32;
}

static void add_record(struct records *records, uint64_t flow, uint64_t content, bool is_error)
{
	REQUIRE(records->used < records_max);
	records->record[records->used++] = (struct record){flow, content, is_error};
}

static uint64_t addresses_of(uint64_t state, const struct ip *ip)
{
	return digest(state, ip_source(ip), ip->version == 4 ? 8 : 32);
}

/* The underlay. */

static void record_datagram(uint32_t source, const union underlay_address *to, uint8_t tos, uint8_t *data, uint32_t len)
{
	const struct dp *dp = kernel->dp;
	uint32_t overhead = dp->encap.overhead;
	uint64_t flow;
	struct ip ip;

	REQUIRE(len > overhead && ip_parse(data + overhead, len - overhead, &ip) && overhead + ip.len == len);
	REQUIRE(ip.len <= dp->config.mtu || (ip.version == 4 && !(ip.data[6] & 0x40)));
	if (to->sa.sa_family == AF_INET)
		flow = digest(source, &to->in.sin_port, 6);
	else
		flow = digest(digest(source, &to->in6.sin6_port, 2), &to->in6.sin6_addr, 16);
	add_record(&kernel->wire, addresses_of(flow, &ip), digest(tos, data, len), false);
}

static bool send_message(int fd, const struct msghdr *message)
{
	static uint8_t train[packet_max + 1];
	uint32_t segment = 0, len = 0;
	uint8_t tos = 0;

	REQUIRE(message->msg_iovlen <= iovecs_max);
	for (size_t i = 0; i < message->msg_iovlen; i++) {
		if (len + message->msg_iov[i].iov_len > datagram_max) {
			errno = EMSGSIZE;
			return false;
		}
		memcpy(train + len, message->msg_iov[i].iov_base, message->msg_iov[i].iov_len);
		len += (uint32_t)message->msg_iov[i].iov_len;
	}
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(message); cmsg; cmsg = CMSG_NXTHDR((struct msghdr *)(uintptr_t)message, cmsg)) {
		uint16_t size;
		int value;

		if (cmsg->cmsg_level == IPPROTO_UDP && cmsg->cmsg_type == UDP_SEGMENT) {
			REQUIRE(cmsg->cmsg_len == CMSG_LEN(sizeof(size)));
			memcpy(&size, CMSG_DATA(cmsg), sizeof(size));
			segment = size;
			REQUIRE(segment && segment < len);
			continue;
		}
		REQUIRE(cmsg->cmsg_len == CMSG_LEN(sizeof(value)));
		REQUIRE(kernel->dp->config.underlay_family == 4 ? cmsg->cmsg_level == IPPROTO_IP && cmsg->cmsg_type == IP_TOS
								 : cmsg->cmsg_level == IPPROTO_IPV6 && cmsg->cmsg_type == IPV6_TCLASS);
		memcpy(&value, CMSG_DATA(cmsg), sizeof(value));
		tos = (uint8_t)value;
	}
	if (!segment)
		segment = len;
	REQUIRE((len + segment - 1) / segment <= wire_segments_max);
	for (uint32_t at = 0; at < len; at += segment)
		record_datagram((uint32_t)(fd - kernel_source_fd), message->msg_name, tos, train + at,
				len - at < segment ? len - at : segment);
	return true;
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
	REQUIRE(fd >= kernel_source_fd && flags == MSG_DONTWAIT && count > 0);
	for (unsigned int i = 0; i < count; i++) {
		bool due = is_due(call_sendmmsg);

		/* As the kernel's: the error of a later message shows when that one is the first. */
		if (due && !i)
			return fail(call_sendmmsg);
		if (due || !send_message(fd, &messages[i].msg_hdr))
			return i ? (int)i : -1;
	}
	return (int)count;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	REQUIRE(fd >= kernel_source_fd && flags == MSG_DONTWAIT);
	if (is_due(call_sendmsg))
		return fail(call_sendmsg);
	return send_message(fd, message) ? 1 : -1;
}

static void put_control(struct msghdr *message, size_t *used, int level, int type, const void *value, size_t len)
{
	struct cmsghdr *cmsg = (struct cmsghdr *)((uint8_t *)message->msg_control + *used);

	REQUIRE(*used + CMSG_SPACE(len) <= message->msg_controllen);
	memset(cmsg, 0, CMSG_SPACE(len));
	cmsg->cmsg_level = level;
	cmsg->cmsg_type = type;
	cmsg->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(cmsg), value, len);
	*used += CMSG_SPACE(len);
}

int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout)
{
	struct queue *queue = &kernel->underlay;
	unsigned int got = 0;

	REQUIRE(fd == kernel_receive_fd && flags == MSG_DONTWAIT && !timeout);
	if (is_due(call_recvmmsg))
		return fail(call_recvmmsg);
	for (; got < count && queue->taken < queue->used; got++) {
		const struct item *item = &queue->item[queue->taken++];
		struct msghdr *message = &messages[got].msg_hdr;
		uint8_t *out = message->msg_iov[0].iov_base;
		int traffic_class = item->ecn;
		size_t used = 0;

		REQUIRE(message->msg_iov[0].iov_len == receive_buffer && message->msg_namelen >= sizeof(struct sockaddr_in6));
		ASAN_UNPOISON_MEMORY_REGION(out, receive_buffer);
		memcpy(out, item->data, item->len);
		ASAN_POISON_MEMORY_REGION(out + item->len, receive_buffer - item->len); /* nobody may read on */
		memcpy(message->msg_name, &item->from, sizeof(struct sockaddr_in6));
		if (item->segment)
			put_control(message, &used, IPPROTO_UDP, UDP_GRO, &item->segment, sizeof(int));
		if (item->from.sa.sa_family == AF_INET)
			put_control(message, &used, IPPROTO_IP, IP_TOS, &item->ecn, 1);
		else
			put_control(message, &used, IPPROTO_IPV6, IPV6_TCLASS, &traffic_class, sizeof(int));
		message->msg_controllen = used;
		message->msg_flags = item->truncated ? MSG_TRUNC : 0;
		messages[got].msg_len = item->len;
	}
	if (got)
		return (int)got;
	errno = EAGAIN;
	return -1;
}

/* The socket's error queue is empty. */
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
	(void)fd, (void)message, (void)flags;
	errno = EAGAIN;
	return -1;
}

/* The TUN. */

static ssize_t tun_take(struct virtio_net_hdr *offload, uint8_t *out, size_t room)
{
	struct queue *queue = &kernel->tun;
	const struct item *item;

	if (is_due(call_tun_read)) {
		fail(call_tun_read);
		if (errno)
			return -1;
		return offload ? (ssize_t)sizeof(*offload) - 1 : 0;
	}
	if (queue->taken == queue->used) {
		errno = EAGAIN;
		return -1;
	}
	item = &queue->item[queue->taken++];
	REQUIRE(item->len <= room);
	memcpy(out, item->data, item->len);
	if (!offload)
		return item->len;
	*offload = item->offload;
	return (ssize_t)sizeof(*offload) + item->len;
}

ssize_t __wrap_readv(int fd, const struct iovec *iov, int parts)
{
	if (fd != kernel_tun_fd)
		return __real_readv(fd, iov, parts);
	REQUIRE(parts == 2 && iov[0].iov_len == sizeof(struct virtio_net_hdr));
	return tun_take(iov[0].iov_base, iov[1].iov_base, iov[1].iov_len);
}

ssize_t __wrap_read(int fd, void *out, size_t len)
{
	return fd == kernel_tun_fd ? tun_take(NULL, out, len) : __real_read(fd, out, len);
}

/* Both representations of a zero sum are right (RFC 1624 section 3), and where DF is set the ID means nothing (RFC 6864). */
static void record_packet(uint8_t *packet, uint32_t len)
{
	const struct dp_config *config = &kernel->dp->config;
	const struct dp_address *own;
	uint64_t flow;
	struct ip ip;

	REQUIRE(ip_parse(packet, len, &ip) && ip.len == len);
	own = ip.version == 4 ? &config->tunnel4 : &config->tunnel6;
	flow = addresses_of(ip.proto, &ip);
	if (ip.proto == proto_tcp || ip.proto == proto_udp) {
		uint8_t *field = packet + ip.l4 + (ip.proto == proto_tcp ? 16 : 6);
		uint32_t l4_len = ip.proto == proto_udp ? load16(packet + ip.l4 + 4) : len - ip.l4;
		uint16_t found = load16(field);

		flow = digest(flow, packet + ip.l4, 4);
		if (found || ip.proto == proto_tcp) {
			store16(field, 0);

			uint16_t right = cut_transport_checksum(packet, &ip, l4_len);

			REQUIRE(found % 0xffff == right % 0xffff);
		}
	}
	if (ip.version == 4) {
		store16(packet + 10, 0);
		if (packet[6] & 0x40)
			store16(packet + 4, 0);
	}
	add_record(&kernel->host, flow, digest(0, packet, len), memcmp(ip_source(&ip), own->bytes, ip.version == 4 ? 4 : 16) == 0);
}

static uint32_t gather(uint8_t *out, uint32_t room, const struct iovec *iov, int parts)
{
	uint32_t len = 0;

	for (int i = 0; i < parts; i++) {
		REQUIRE(len + iov[i].iov_len <= room);
		memcpy(out + len, iov[i].iov_base, iov[i].iov_len);
		len += (uint32_t)iov[i].iov_len;
	}
	return len;
}

/* The packets in the super-packet, or 0 where it is none. */
static uint32_t check_super(const struct virtio_net_hdr *offload, uint8_t *packet, uint32_t len, struct ip *ip)
{
	if (!offload || offload->gso_type == VIRTIO_NET_HDR_GSO_NONE)
		return 0;
	REQUIRE(kernel->dp->offloads & (offload->gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 ? DP_OFFLOAD_TUN_USO : DP_OFFLOAD_TUN_GSO));
	REQUIRE(ip_parse(packet, len, ip) && ip->len == len && offload->gso_type == tun_gso_type(ip));
	REQUIRE(offload->flags == VIRTIO_NET_HDR_F_NEEDS_CSUM && offload->csum_start == ip->l4);
	REQUIRE(offload->gso_size && offload->hdr_len == cut_headers(ip) && len > (uint32_t)offload->hdr_len + offload->gso_size);
	return cut_count(ip, offload->gso_size);
}

static void tun_put(const struct virtio_net_hdr *offload, const struct iovec *iov, int parts, bool is_refused)
{
	static uint8_t packet[packet_max], one[packet_max];
	uint32_t len = gather(packet, sizeof(packet), iov, parts), count;
	struct ip ip;

	count = check_super(offload, packet, len, &ip);
	if (is_refused) {
		kernel->refused_packets += count ? count : 1;
		return;
	}
	if (offload && offload->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		REQUIRE(kernel->dp->offloads & DP_OFFLOAD_TUN_GSO);
		REQUIRE(offload->csum_start + offload->csum_offset + 2u <= len);
		cut_finish_checksum(packet, len, offload->csum_start, offload->csum_offset);
	}
	if (!count)
		record_packet(packet, len);
	for (uint32_t i = 0; i < count; i++)
		record_packet(one, cut_segment(one, &ip, offload->gso_size, i));
}

/* The TAP: every segment must be a datagram that a source socket could have sent. */

struct tunnel_header {
	struct virtio_net_hdr base;
	uint8_t unused[10];
	uint16_t outer_th;
	uint16_t inner_nh;
};

static void tunnel_put(const struct iovec *iov, int parts)
{
	static uint8_t frame[ethernet_header + ipv6_header + packet_max], one[packet_max];
	const struct dp *dp = kernel->dp;
	bool is_ipv4 = dp->config.underlay_family == 4;
	uint32_t outer = ethernet_header + (is_ipv4 ? ipv4_header : ipv6_header);
	uint32_t overhead = dp->encap.overhead, inner = outer + udp_header + overhead, udp_len;
	uint8_t *ip_header = frame + ethernet_header, *udp = frame + outer, tos;
	union underlay_address to = {0};
	struct tunnel_header header;
	struct ip ip;
	uint32_t len;

	REQUIRE(iov[0].iov_len == sizeof(header));
	memcpy(&header, iov[0].iov_base, sizeof(header));
	len = gather(frame, sizeof(frame), iov + 1, parts - 1);
	REQUIRE(len > inner && header.outer_th == outer && header.inner_nh == inner);
	REQUIRE(ip_parse(frame + inner, len - inner, &ip) && inner + ip.len == len);
	REQUIRE(load16(frame + 12) == (is_ipv4 ? ethertype_ipv4 : ethertype_ipv6));
	udp_len = len - outer;
	if (is_ipv4) {
		REQUIRE(ip_header[0] == 0x45 && load16(ip_header + 2) == len - ethernet_header && ip_header[9] == proto_udp);
		REQUIRE(twin_checksum(ip_header, ipv4_header, 0) == 0);
		tos = ip_header[1];
		to.in.sin_family = AF_INET;
		memcpy(&to.in.sin_addr, ip_header + 16, 4);
		memcpy(&to.in.sin_port, udp + 2, 2);
	} else {
		REQUIRE(ip_header[0] == 0x60 && load16(ip_header + 4) == udp_len && ip_header[6] == proto_udp);
		tos = (uint8_t)(ip_header[1] >> 4);
		to.in6.sin6_family = AF_INET6;
		memcpy(&to.in6.sin6_addr, ip_header + 24, 16);
		memcpy(&to.in6.sin6_port, udp + 2, 2);
	}
	REQUIRE(load16(udp + 4) == udp_len);
	REQUIRE(load16(udp + 6) == twin_pseudo(ip_header, udp_len, proto_udp));
	REQUIRE(header.base.flags == (VIRTIO_NET_HDR_F_NEEDS_CSUM | 8) && header.base.csum_start == inner + ip.l4);
	REQUIRE((header.base.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == (tun_gso_type(&ip) | (is_ipv4 ? 0x20 : 0x40)));
	REQUIRE(!(header.base.gso_type & VIRTIO_NET_HDR_GSO_ECN) ==
		!(ip.proto == proto_tcp && ip.data[ip.l4 + tcp_flags_at] & tcp_flag_cwr));
	REQUIRE(header.base.hdr_len == inner + cut_headers(&ip) && header.base.gso_size);
	kernel->on_whole(kernel, &ip);
	memcpy(one, frame + outer + udp_header, overhead);
	for (uint32_t i = 0; i < cut_count(&ip, header.base.gso_size); i++) {
		len = cut_segment(one + overhead, &ip, header.base.gso_size, i);
		record_datagram(load16(udp) - kernel_source_port, &to, tos, one, overhead + len);
	}
}

ssize_t __wrap_writev(int fd, const struct iovec *iov, int parts)
{
	enum call call = fd == kernel_tun_fd ? call_tun_write : call_tunnel_write;
	bool vnet_hdr, is_refused;

	if (fd < kernel_fd)
		return __real_writev(fd, iov, parts);
	REQUIRE(parts <= iovecs_max && (fd == kernel_tun_fd || fd == kernel_tunnel_fd));
	is_refused = is_due(call);
	if (is_refused && kernel->fault[call].error == EINTR)
		return fail(call);
	if (call == call_tunnel_write) {
		if (!is_refused)
			tunnel_put(iov, parts);
	} else {
		vnet_hdr = kernel->dp->config.vnet_hdr;
		REQUIRE(!vnet_hdr || iov[0].iov_len == sizeof(struct virtio_net_hdr));
		tun_put(vnet_hdr ? iov[0].iov_base : NULL, iov + vnet_hdr, parts - vnet_hdr, is_refused);
	}
	return is_refused ? fail(call) : 1;
}

/* The rest. */

static int answer(uint32_t option)
{
	if (!(kernel->refused & option))
		return 0;
	errno = EINVAL;
	return -1;
}

/* What the one forwarder waits for, and what it calls them. */
static uint64_t event_of_tun, event_of_receive, event_of_stop;

int __wrap_epoll_ctl(int wait_fd, int operation, int fd, struct epoll_event *event)
{
	REQUIRE(wait_fd == kernel_wait_fd && operation == EPOLL_CTL_ADD && event->events == EPOLLIN);
	switch (fd) {
	case kernel_tun_fd:
		event_of_tun = event->data.u64;
		break;
	case kernel_receive_fd:
		event_of_receive = event->data.u64;
		break;
	default:
		REQUIRE(fd == kernel_stop_fd);
		event_of_stop = event->data.u64;
	}
	return answer(kernel_refuses_waiting);
}

static int tell(struct epoll_event *events, int ready, bool is_ready, uint64_t event)
{
	if (is_ready)
		events[ready++] = (struct epoll_event){.events = EPOLLIN, .data.u64 = event};
	return ready;
}

int __wrap_epoll_wait(int wait_fd, struct epoll_event *events, int most, int timeout)
{
	REQUIRE(wait_fd == kernel_wait_fd && most >= 3);
	if (is_due(call_wait))
		return fail(call_wait);
	for (;;) {
		int ready = tell(events, 0, kernel->tun.taken < kernel->tun.used, event_of_tun);

		ready = tell(events, ready, kernel->underlay.taken < kernel->underlay.used, event_of_receive);
		ready = tell(events, ready, kernel->dp->stopping, event_of_stop);
		if (ready || timeout == 0)
			return ready;
		if (!kernel->next(kernel))
			dp_stop(kernel->dp);
	}
}

ssize_t __wrap_write(int fd, const void *from, size_t len)
{
	return fd == kernel_stop_fd ? (ssize_t)len : __real_write(fd, from, len);
}

int __wrap_close(int fd)
{
	return fd == kernel_stop_fd || fd == kernel_wait_fd ? 0 : __real_close(fd);
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	unsigned long offloads;
	va_list arguments;

	va_start(arguments, request);
	offloads = va_arg(arguments, unsigned long);
	va_end(arguments);
	if (fd == kernel_tunnel_fd)
		return answer(request == TUNSETOFFLOAD ? DP_OFFLOAD_TUNNEL_GSO : DP_OFFLOAD_COALESCE);
	REQUIRE(fd == kernel_tun_fd && request == TUNSETOFFLOAD);
	return answer(!offloads ? 0 : offloads & TUN_F_USO4 ? DP_OFFLOAD_TUN_USO : DP_OFFLOAD_TUN_GSO);
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	(void)fd, (void)value, (void)len;
	return level == IPPROTO_UDP ? answer(name == UDP_GRO ? DP_OFFLOAD_UDP_GRO : DP_OFFLOAD_UDP_SEGMENT) : 0;
}

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	REQUIRE(fd == kernel_receive_fd && level == SOL_SOCKET && name == SO_MEMINFO);
	memset(value, 0, *len);
	return 0;
}

int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *len)
{
	bool is_ipv4 = kernel->is_ipv4;
	uint16_t port = htons((uint16_t)(kernel_source_port + fd - kernel_source_fd));
	union underlay_address own = {.sa.sa_family = AF_INET6};

	if (is_ipv4)
		own.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port, .sin_addr.s_addr = htonl(0xc0000201)};
	else
		own.in6.sin6_port = port;
	*len = is_ipv4 ? sizeof(own.in) : sizeof(own.in6);
	memcpy(address, &own, *len);
	return answer(kernel_refuses_names);
}

int __wrap_epoll_create1(int flags)
{
	REQUIRE(flags == EPOLL_CLOEXEC);
	return answer(kernel_refuses_epoll) ? -1 : kernel_wait_fd;
}

int __wrap_eventfd(unsigned int initial, int flags)
{
	(void)initial, (void)flags;
	return answer(kernel_refuses_eventfd) ? -1 : kernel_stop_fd;
}

ssize_t __wrap_getrandom(void *out, size_t len, unsigned int flags)
{
	(void)flags;
	memset(out, 0x5a, len);
	return kernel->refuses_randomness ? -1 : (ssize_t)len;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	if (!kernel)
		return __real_clock_gettime(clock, now);
	kernel->clock_ns += kernel->tick_ns;
	*now = (struct timespec){(time_t)(kernel->clock_ns / 1000000000), (long)(kernel->clock_ns % 1000000000)};
	return 0;
}

static bool is_refused_memory(void)
{
	return kernel_allocations && --kernel_allocations == 0;
}

void *__wrap_malloc(size_t size)
{
	return is_refused_memory() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
	return is_refused_memory() ? NULL : __real_calloc(count, size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
	return is_refused_memory() ? NULL : __real_aligned_alloc(alignment, size);
}
