/* SPDX-License-Identifier: Apache-2.0 */
#include "edges/underlay.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

uint32_t underlay_probe(const struct dp_config *config, uint32_t wanted)
{
	int on = 1, off = 0;

	for (uint32_t i = 0; i < config->sources && (wanted & DP_OFFLOAD_UDP_SEGMENT); i++)
		if (setsockopt(config->source_fds[i], IPPROTO_UDP, UDP_SEGMENT, &off, sizeof(off)) < 0)
			wanted &= ~(uint32_t)DP_OFFLOAD_UDP_SEGMENT;
	for (uint32_t i = 0; i < config->workers && (wanted & DP_OFFLOAD_UDP_GRO); i++)
		for (uint32_t j = 0; j < config->edges[i].receives; j++)
			if (setsockopt(config->edges[i].receive_fds[j], IPPROTO_UDP, UDP_GRO, &on, sizeof(on)) < 0)
				wanted &= ~(uint32_t)DP_OFFLOAD_UDP_GRO;
	return wanted;
}

void underlay_init(struct worker *w)
{
	struct receive_batch *batch = &w->receive;

	batch->used = messages_max;
	for (uint32_t i = 0; i < messages_max; i++) {
		batch->message_iov[i] = (struct iovec){batch->buffers + (size_t)i * receive_buffer, receive_buffer};
		batch->message[i].msg_hdr = (struct msghdr){
			.msg_name = &batch->from[i],
			.msg_iov = &batch->message_iov[i],
			.msg_iovlen = 1,
			.msg_control = batch->control[i].bytes,
		};
	}
}

/* The train that the flow's last datagram went to, if it takes this one too. */
static struct train *open_train(struct send_batch *batch, uint32_t bucket, const struct fib_peer *peer, uint32_t source,
				uint32_t len, uint8_t ecn)
{
	uint32_t index = batch->by_flow[bucket];
	struct train *train = &batch->train[index];

	if (index >= batch->trains || !train->open || train->peer != peer || train->source != source)
		return NULL;
	if (train->ecn != ecn || len > train->segment || train->segments == train_segments || train->bytes + len > train_bytes)
		return NULL;
	return train;
}

void underlay_queue(struct worker *w, uint8_t *data, uint32_t len, const struct fib_peer *peer, uint32_t source, uint8_t ecn)
{
	struct send_batch *batch = &w->send;
	uint32_t bucket = (peer->slot * 31 + source) % flow_buckets;
	uint32_t index = batch->datagrams++;
	struct train *train = NULL;

	batch->datagram[index] = (struct datagram){data, len, 0};
	if (w->offloads & DP_OFFLOAD_UDP_SEGMENT)
		train = open_train(batch, bucket, peer, source, len, ecn);
	if (train) {
		batch->datagram[train->last].next = index;
		train->last = index;
		train->segments++;
		train->bytes += len;
		train->open = len == train->segment; /* only the last one may be shorter */
		return;
	}
	batch->by_flow[bucket] = (uint16_t)batch->trains;
	batch->train[batch->trains++] = (struct train){
		.peer = peer, .source = source, .segment = len, .segments = 1, .bytes = len,
		.first = index, .last = index, .ecn = ecn, .open = true,
	};
}

/* The train's datagrams as iovecs; neighbours in memory become one. Returns how many iovecs. */
static uint32_t gather(const struct send_batch *batch, const struct train *train, struct iovec *iov)
{
	uint32_t used = 0;

	for (uint32_t at = train->first;; at = batch->datagram[at].next) {
		const struct datagram *datagram = &batch->datagram[at];

		if (used && (uint8_t *)iov[used - 1].iov_base + iov[used - 1].iov_len == datagram->data)
			iov[used - 1].iov_len += datagram->len;
		else
			iov[used++] = (struct iovec){datagram->data, datagram->len};
		if (at == train->last)
			return used;
	}
}

static void add_control(struct msghdr *message, int level, int type, const void *value, size_t len)
{
	struct cmsghdr *cmsg = (struct cmsghdr *)((uint8_t *)message->msg_control + message->msg_controllen);

	cmsg->cmsg_level = level;
	cmsg->cmsg_type = type;
	cmsg->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(cmsg), value, len);
	message->msg_controllen += CMSG_SPACE(len);
}

static void write_message(struct worker *w, struct msghdr *message, const struct train *train, struct iovec *iov, uint32_t iovs,
			  union send_control *control, bool as_train)
{
	uint16_t segment = (uint16_t)train->segment;
	int ecn = train->ecn;

	*message = (struct msghdr){
		.msg_name = (void *)(uintptr_t)&train->peer->address,
		.msg_namelen = train->peer->address_len,
		.msg_iov = iov,
		.msg_iovlen = iovs,
		.msg_control = control->bytes,
	};
	if (as_train && train->segments > 1)
		add_control(message, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment));
	if (ecn && w->dp->config.underlay_family == 4)
		add_control(message, IPPROTO_IP, IP_TOS, &ecn, sizeof(ecn));
	else if (ecn)
		add_control(message, IPPROTO_IPV6, IPV6_TCLASS, &ecn, sizeof(ecn));
	if (!message->msg_controllen)
		message->msg_control = NULL;
}

void underlay_count(struct worker *w, const struct fib_peer *peer, uint64_t packets, uint64_t bytes)
{
	count(&w->peers[peer->slot].tx_packets, packets);
	count(&w->peers[peer->slot].tx_bytes, bytes);
	count(&w->counters.tx_bytes, bytes);
	count(&w->counters.tx_packets, packets);
}

static void count_sent(struct worker *w, const struct train *train, uint32_t datagrams, uint32_t bytes)
{
	count(&w->counters.underlay_sends, 1);
	underlay_count(w, train->peer, datagrams, bytes - datagrams * w->dp->encap.overhead);
}

/* The kernel counts in its SndbufErrors a send for which there is no memory and, once a socket's buffer was full, whatever else
 * that socket is refused (Linux net/ipv4/udp.c, udp_sendmsg): whoever reads that counter can take off what we know of.
 */
static void count_failure(struct worker *w, uint32_t source, uint32_t datagrams)
{
	bool is_full = errno == EAGAIN || errno == ENOBUFS;

	if (errno == EAGAIN)
		w->full_sources |= 1u << source;
	if (is_full || w->full_sources & 1u << source)
		count(&w->counters.underlay_full, 1);
	count(is_full ? &w->counters.drop_send_full : &w->counters.drop_send_error, datagrams);
}

/* A train that the kernel refused as such goes out datagram by datagram. EIO means that this route's device can never
 * segment (Linux net/ipv4/udp.c, udp_send_skb), so it is not tried again; other refusals concern this train alone, for
 * example a path whose MTU is smaller than its datagrams.
 */
static void send_singly(struct worker *w, const struct train *train, int fd)
{
	struct send_batch *batch = &w->send;

	if (errno == EIO)
		w->offloads &= ~(uint32_t)DP_OFFLOAD_UDP_SEGMENT;
	if (w->full_sources & 1u << train->source)
		count(&w->counters.underlay_full, 1);
	for (uint32_t at = train->first;; at = batch->datagram[at].next) {
		struct iovec iov = {batch->datagram[at].data, batch->datagram[at].len};
		union send_control control;
		struct msghdr message;

		write_message(w, &message, train, &iov, 1, &control, false);
		if (sendmsg(fd, &message, MSG_DONTWAIT) >= 0)
			count_sent(w, train, 1, batch->datagram[at].len);
		else
			count_failure(w, train->source, 1);
		if (at == train->last)
			return;
	}
}

static void send_messages(struct worker *w, int fd, uint32_t messages)
{
	struct send_batch *batch = &w->send;
	uint32_t done = 0;

	while (done < messages) {
		int sent = sendmmsg(fd, batch->message + done, messages - done, MSG_DONTWAIT);

		for (int i = 0; i < sent; i++, done++) {
			const struct train *train = &batch->train[batch->message_train[done]];

			count_sent(w, train, train->segments, train->bytes);
		}
		if (sent > 0 || errno == EINTR)
			continue;

		const struct train *train = &batch->train[batch->message_train[done]];

		if (train->segments > 1 && (errno == EIO || errno == EINVAL || errno == EMSGSIZE))
			send_singly(w, train, fd);
		else
			count_failure(w, train->source, train->segments);
		done++;
	}
}

void underlay_flush(struct worker *w)
{
	struct send_batch *batch = &w->send;
	const struct dp_config *config = &w->dp->config;
	uint32_t sources = 0;

	for (uint32_t i = 0; i < batch->trains; i++)
		sources |= 1u << batch->train[i].source;
	while (sources) {
		uint32_t source = (uint32_t)__builtin_ctz(sources);
		uint32_t messages = 0, iovs = 0;

		sources &= sources - 1;
		for (uint32_t i = 0; i < batch->trains; i++) {
			const struct train *train = &batch->train[i];

			if (train->source != source)
				continue;

			uint32_t used = gather(batch, train, batch->iov + iovs);

			write_message(w, &batch->message[messages].msg_hdr, train, batch->iov + iovs, used, &batch->control[messages], true);
			batch->message_train[messages++] = (uint16_t)i;
			iovs += used;
		}
		send_messages(w, config->source_fds[source], messages);
	}
	batch->datagrams = 0;
	batch->trains = 0;
}

int underlay_receive(struct worker *w, int fd)
{
	struct receive_batch *batch = &w->receive;
	int got;

	for (uint32_t i = 0; i < batch->used; i++) {
		struct msghdr *message = &batch->message[i].msg_hdr;

		message->msg_namelen = sizeof(batch->from[i]);
		message->msg_controllen = sizeof(batch->control[i]);
	}
	do
		got = recvmmsg(fd, batch->message, messages_max, MSG_DONTWAIT, NULL);
	while (got < 0 && errno == EINTR);
	batch->used = got < 0 ? 0 : (uint32_t)got;
	if (got < 0) {
		/* Only a descriptor that is no socket any more ends a worker; network errors are news about single datagrams. */
		if (errno == EBADF || errno == ENOTSOCK || errno == EFAULT || errno == EINVAL)
			return -errno;
		return 0;
	}
	if (got)
		count(&w->counters.underlay_receives, (uint64_t)got);
	return got;
}

void underlay_ancillary(const struct msghdr *message, uint32_t *segment, uint8_t *ecn)
{
	*segment = 0;
	*ecn = 0;
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(message); cmsg; cmsg = CMSG_NXTHDR((struct msghdr *)(uintptr_t)message, cmsg)) {
		if (cmsg->cmsg_level == IPPROTO_UDP && cmsg->cmsg_type == UDP_GRO) {
			int value;

			memcpy(&value, CMSG_DATA(cmsg), sizeof(value));
			*segment = value > 0 ? (uint32_t)value : 0;
		} else if (cmsg->cmsg_level == IPPROTO_IP && cmsg->cmsg_type == IP_TOS) {
			*ecn = *CMSG_DATA(cmsg) & ecn_mask;
		} else if (cmsg->cmsg_level == IPPROTO_IPV6 && cmsg->cmsg_type == IPV6_TCLASS) {
			int value;

			memcpy(&value, CMSG_DATA(cmsg), sizeof(value));
			*ecn = (uint8_t)(value & ecn_mask);
		}
	}
}
