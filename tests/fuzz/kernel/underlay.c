/* SPDX-License-Identifier: Apache-2.0 */
/* The underlay's sockets. A train is cut by its size, at most 64 datagrams (Linux net/ipv4/udp.c); an error of a later message shows
 * at the next sendmmsg.
 */
#include <errno.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sanitizer/asan_interface.h>

#include "kernel/kernel.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
	datagram_max = 65507, /* over IPv4 */
	wire_segments_max = 64,
};

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t len);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *len);
int __wrap_getsockname(int fd, struct sockaddr *address, socklen_t *len);

struct message {
	uint8_t data[encap_overhead_max + packet_max];
	uint32_t len;
	uint32_t segment;
	uint32_t segments;
	uint8_t tos;
};

static void read_control(struct message *out, const struct msghdr *message)
{
	bool is_ipv4 = kernel->dp->config.underlay_family == 4;

	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(message); cmsg; cmsg = CMSG_NXTHDR((struct msghdr *)(uintptr_t)message, cmsg)) {
		uint16_t size;
		int value;

		if (cmsg->cmsg_level == IPPROTO_UDP && cmsg->cmsg_type == UDP_SEGMENT) {
			CHECK(kernel->dp->offloads & DP_OFFLOAD_UDP_SEGMENT && cmsg->cmsg_len == CMSG_LEN(sizeof(size)));
			memcpy(&size, CMSG_DATA(cmsg), sizeof(size));
			CHECK(size && size < out->len && !out->segment);
			out->segment = size;
			continue;
		}
		CHECK(cmsg->cmsg_len == CMSG_LEN(sizeof(value)) && !out->tos);
		CHECK(cmsg->cmsg_level == (is_ipv4 ? IPPROTO_IP : IPPROTO_IPV6));
		CHECK(cmsg->cmsg_type == (is_ipv4 ? IP_TOS : IPV6_TCLASS));
		memcpy(&value, CMSG_DATA(cmsg), sizeof(value));
		out->tos = (uint8_t)value;
	}
}

static struct message *read_message(const struct msghdr *message)
{
	static struct message out;

	out.len = out.segment = out.tos = 0;
	CHECK(message->msg_iovlen <= iovecs_max);
	for (size_t i = 0; i < message->msg_iovlen; i++) {
		CHECK(out.len + message->msg_iov[i].iov_len <= sizeof(out.data));
		memcpy(out.data + out.len, message->msg_iov[i].iov_base, message->msg_iov[i].iov_len);
		out.len += (uint32_t)message->msg_iov[i].iov_len;
	}
	read_control(&out, message);
	if (!out.segment)
		out.segment = out.len;
	out.segments = (out.len + out.segment - 1) / out.segment;
	CHECK(out.segments <= wire_segments_max);
	return &out;
}

/* What the message's packets must be counted as; those of a train that goes out singly again are none yet. */
static void count_refused(uint32_t segments)
{
	if (segments > 1 && (errno == EIO || errno == EINVAL || errno == EMSGSIZE))
		return;
	if (errno == EAGAIN || errno == ENOBUFS)
		kernel->seen.drop_send_full += segments;
	else
		kernel->seen.drop_send_error += segments;
}

static void let_out(int fd, const struct msghdr *message, const struct message *read)
{
	uint32_t source = (uint32_t)(fd - kernel_source_fd), overhead = kernel->dp->encap.overhead;

	CHECK(overhead || source == 0); /* udp: the worker's own, which plain peers see as the one proxy's */
	kernel->seen.underlay_sends++;
	for (uint32_t at = 0; at < read->len; at += read->segment)
		record_wire(&kernel->wire, message->msg_name, read->tos, read->data + at,
			    read->len - at < read->segment ? read->len - at : read->segment, overhead, source, 0);
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
	CHECK(fd >= kernel_source_fd && flags == MSG_DONTWAIT && count > 0);
	for (unsigned int i = 0; i < count; i++) {
		bool is_due = kernel_is_due(call_sendmmsg);
		const struct message *message = read_message(&messages[i].msg_hdr);

		if (!is_due && message->len <= datagram_max) {
			let_out(fd, &messages[i].msg_hdr, message);
			continue;
		}
		if (i)
			return (int)i;
		errno = EMSGSIZE;
		if (is_due)
			kernel_fail(call_sendmmsg);
		if (errno != EINTR)
			count_refused(message->segments);
		return -1;
	}
	return (int)count;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	bool is_due = kernel_is_due(call_sendmsg);
	const struct message *read = read_message(message);

	CHECK(fd >= kernel_source_fd && flags == MSG_DONTWAIT && read->segments == 1);
	if (!is_due && read->len <= datagram_max) {
		let_out(fd, message, read);
		return read->len;
	}
	errno = EMSGSIZE;
	if (is_due)
		kernel_fail(call_sendmsg);
	count_refused(1);
	return -1;
}

static void put_control(struct msghdr *message, size_t *used, int level, int type, const void *value, size_t len)
{
	struct cmsghdr *cmsg = (struct cmsghdr *)((uint8_t *)message->msg_control + *used);

	CHECK(*used + CMSG_SPACE(len) <= message->msg_controllen);
	memset(cmsg, 0, CMSG_SPACE(len));
	cmsg->cmsg_level = level;
	cmsg->cmsg_type = type;
	cmsg->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(cmsg), value, len);
	*used += CMSG_SPACE(len);
}

int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout)
{
	struct queue *queue = &kernel->underlay[fd - kernel_receive_fd];
	unsigned int got = 0;

	CHECK(fd >= kernel_receive_fd && fd < kernel_receive_fd + kernel_queues && flags == MSG_DONTWAIT && !timeout);
	if (kernel_is_due(call_recvmmsg))
		return kernel_fail(call_recvmmsg);
	for (; got < count && queue->taken < queue->used; got++) {
		const struct item *item = &queue->item[queue->taken++];
		struct msghdr *message = &messages[got].msg_hdr;
		uint8_t *out = message->msg_iov[0].iov_base;
		int traffic_class = item->ecn;
		size_t used = 0;

		CHECK(message->msg_iov[0].iov_len == receive_buffer && message->msg_namelen >= sizeof(struct sockaddr_in6));
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
		kernel->on_arrival(kernel, item);
	}
	kernel->seen.underlay_receives += got;
	if (got)
		return (int)got;
	errno = EAGAIN;
	return -1;
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	(void)fd, (void)value, (void)len;
	CHECK(level == IPPROTO_UDP && (name == UDP_GRO || name == UDP_SEGMENT));
	errno = ENOPROTOOPT;
	return kernel->refused & (name == UDP_GRO ? DP_OFFLOAD_UDP_GRO : DP_OFFLOAD_UDP_SEGMENT) ? -1 : 0;
}

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	CHECK(fd >= kernel_receive_fd && fd < kernel_receive_fd + kernel_queues && level == SOL_SOCKET && name == SO_MEMINFO);
	CHECK(*len == SK_MEMINFO_VARS * sizeof(uint32_t));
	memset(value, 0, *len);
	((uint32_t *)value)[SK_MEMINFO_DROPS] = kernel->socket_drops;
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
	errno = EINVAL;
	return kernel->refused & kernel_refuses_names ? -1 : 0;
}
