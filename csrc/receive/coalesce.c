/* SPDX-License-Identifier: Apache-2.0 */
/* A run is one coming TUN write: a packet, and the payloads that follow it in its flow.
 *
 * A packet joins its flow's run only if cutting the joined packet gives back exactly the packets that came: same addresses,
 * ports, TTL, TOS, DF, IPv6 flow label, TCP options, window and acknowledgement; consecutive sequence numbers and (without
 * DF) IPv4 IDs; equal payload sizes but for the last. What must stay true:
 *   - only packets whose checksum was verified, or was left partial by a sender on this very machine, are joined: the joined
 *     packet gets a fresh checksum, which would hide damage;
 *   - a packet that cannot join closes its flow's run, so that nothing later overtakes it; a fragment, whose flow is not
 *     known, closes all runs.
 * The slow twin is tests/c/twin.h: the runs, cut again, must equal the packets one by one.
 */
#include "receive/coalesce.h"

#include "edges/tun.h"
#include "packet/checksum.h"
#include "packet/segment.h"

/* Only plain data packets are worth joining: no IP options or extension headers, TCP with ACK and at most PSH, UDP whose
 * length is the packet's.
 */
static bool is_joinable(const struct ip *ip, enum ip_checksum checksum)
{
	const uint8_t *l4 = ip->data + ip->l4;

	if (checksum != ip_checksum_good && checksum != ip_checksum_partial)
		return false;
	if (ip->l4 != (ip->version == 4 ? ipv4_header : ipv6_header))
		return false;
	if (ip->proto == proto_tcp)
		return (l4[tcp_flags_at] & ~tcp_flag_psh) == tcp_flag_ack && (l4[12] & 15) == 0 && ip->len > ip_headers(ip);
	return load16(l4 + 4) == ip->len - ip->l4 && ip->len > ip_headers(ip);
}

/* Version, TOS, flow label, TTL, protocol, addresses, DF. */
static bool same_ip_header(const struct ip *a, const struct ip *b)
{
	if (a->version != b->version)
		return false;
	if (a->version == 6)
		return memcmp(a->data, b->data, 4) == 0 && memcmp(a->data + 6, b->data + 6, 34) == 0;
	return a->data[1] == b->data[1] && load16(a->data + 6) == load16(b->data + 6) && memcmp(a->data + 8, b->data + 8, 2) == 0 &&
	       memcmp(a->data + 12, b->data + 12, 8) == 0;
}

static bool is_next(const struct run *run, const struct ip *ip, uint32_t headers, uint32_t payload)
{
	const uint8_t *l4 = ip->data + ip->l4, *first = run->ip.data + run->ip.l4;

	if (headers != run->headers || payload > run->gso_size || run->headers + run->payload + payload > packet_max)
		return false;
	if (ip->proto != run->ip.proto || !same_ip_header(ip, &run->ip) || memcmp(l4, first, 4) != 0)
		return false;
	if (ip->version == 4 && !(ip->data[6] & 0x40) && load16(ip->data + 4) != (uint16_t)(load16(run->ip.data + 4) + run->packets))
		return false;
	if (ip->proto == proto_udp)
		return run->packets < train_segments;
	return load32(l4 + 4) == run->next_sequence && memcmp(l4 + 8, first + 8, 4) == 0 && /* acknowledgement */
	       l4[12] == first[12] && memcmp(l4 + 14, first + 14, 2) == 0 &&               /* window */
	       memcmp(l4 + 18, first + 18, headers - ip->l4 - 18) == 0;                     /* urgent pointer, options */
}

static void join(struct receive_batch *batch, struct run *run, const struct ip *ip, enum ip_checksum checksum, uint32_t payload)
{
	uint32_t index = batch->parts++;

	batch->part[index] = (struct part){ip->data + run->headers, payload, 0};
	if (run->first)
		batch->part[run->last].next = index;
	else
		run->first = index;
	run->last = index;
	run->payload += payload;
	run->packets++;
	run->next_sequence += payload;
	run->partial |= checksum == ip_checksum_partial;
	run->open = payload == run->gso_size;
	if (ip->proto == proto_tcp && (ip->data[ip->l4 + tcp_flags_at] & tcp_flag_psh)) {
		/* The end of what the sender wrote: keep the mark, and what follows out. */
		run->ip.data[run->ip.l4 + tcp_flags_at] |= tcp_flag_psh;
		run->open = false;
	}
}

static struct run *add_run(struct receive_batch *batch, const struct fib_peer *peer, const struct ip *ip, enum ip_checksum checksum)
{
	struct run *run = &batch->run[batch->runs++];

	*run = (struct run){.peer = peer, .ip = *ip, .packets = 1, .partial = checksum == ip_checksum_partial};
	return run;
}

static void open_run(struct receive_batch *batch, const struct fib_peer *peer, const struct ip *ip, enum ip_checksum checksum,
		     uint32_t headers, uint32_t bucket)
{
	const uint8_t *l4 = ip->data + ip->l4;

	batch->by_flow[bucket] = (uint16_t)batch->runs;

	struct run *run = add_run(batch, peer, ip, checksum);

	run->headers = headers;
	run->payload = ip->len - headers;
	run->gso_size = run->payload;
	run->open = ip->proto == proto_udp || !(l4[tcp_flags_at] & tcp_flag_psh);
	if (ip->proto == proto_tcp)
		run->next_sequence = load32(l4 + 4) + run->payload;
}

void coalesce_add(struct worker *w, const struct fib_peer *peer, const struct ip *ip, enum ip_checksum checksum, uint32_t gso_size)
{
	struct receive_batch *batch = &w->receive;
	uint32_t needed = ip->proto == proto_udp ? DP_OFFLOAD_TUN_USO : DP_OFFLOAD_TUN_GSO;
	uint32_t bucket, headers;
	struct run *run;

	if (batch->runs == runs_max || batch->parts == parts_max)
		coalesce_flush(w);
	if (ip->fragment)
		memset(batch->by_flow, 0xff, sizeof(batch->by_flow));
	bucket = ip_flow_hash(ip) % flow_buckets;
	if (gso_size) {
		batch->by_flow[bucket] = UINT16_MAX;
		run = add_run(batch, peer, ip, checksum);
		run->headers = ip_headers(ip);
		run->payload = ip->len - run->headers;
		run->packets = ip_segments(ip, gso_size);
		run->gso_size = gso_size;
		return;
	}
	if (!(w->offloads & DP_OFFLOAD_COALESCE) || !(w->offloads & needed) || !is_joinable(ip, checksum)) {
		batch->by_flow[bucket] = UINT16_MAX;
		add_run(batch, peer, ip, checksum);
		return;
	}
	headers = ip_headers(ip);
	if (batch->by_flow[bucket] < batch->runs) {
		run = &batch->run[batch->by_flow[bucket]];
		if (run->open && run->peer == peer && is_next(run, ip, headers, ip->len - headers)) {
			join(batch, run, ip, checksum, ip->len - headers);
			return;
		}
	}
	open_run(batch, peer, ip, checksum, headers, bucket);
}

/* The device finishes the checksum: it wants the pseudo-header's sum in the field. */
static void leave_checksum(const struct ip *ip, struct virtio_net_hdr *offload)
{
	uint8_t *field = ip->data + ip->l4 + ip_checksum_offset(ip);

	checksum_store(field, checksum_fold(ip_pseudo_sum(ip, ip->len - ip->l4)));
	offload->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	offload->csum_start = ip->l4;
	offload->csum_offset = (uint16_t)ip_checksum_offset(ip);
}

static void count_received(struct worker *w, const struct run *run, uint64_t packets, uint64_t bytes)
{
	struct dp_peer_counters *by_peer = &w->peers[run->peer->slot];

	count(&by_peer->rx_packets, packets);
	count(&by_peer->rx_bytes, bytes);
	count(&w->counters.rx_bytes, bytes);
	count(&w->counters.rx_packets, packets);
}

static void write_whole(struct worker *w, struct run *run)
{
	struct virtio_net_hdr offload = {0};
	struct iovec *iov = w->receive.iov;

	if (run->partial) {
		if (w->offloads & DP_OFFLOAD_TUN_GSO)
			leave_checksum(&run->ip, &offload);
		else
			ip_finish_checksum(run->ip.data, run->ip.len, run->ip.l4, ip_checksum_offset(&run->ip));
	}
	iov[1] = (struct iovec){run->ip.data, run->ip.len};
	if (tun_write(w, &offload, iov, 2, 1))
		count_received(w, run, 1, run->ip.len);
}

static void write_joined(struct worker *w, struct run *run)
{
	struct receive_batch *batch = &w->receive;
	struct virtio_net_hdr offload = {
		.gso_type = tun_gso_type(&run->ip),
		.gso_size = (uint16_t)run->gso_size,
		.hdr_len = (uint16_t)run->headers,
	};
	struct iovec *iov = batch->iov;
	uint32_t used = 1;

	iov[used++] = (struct iovec){run->ip.data, run->ip.len};
	for (uint32_t part = run->first; part; part = batch->part[part].next)
		iov[used++] = (struct iovec){batch->part[part].data, batch->part[part].len};
	ip_set_length(&run->ip, run->headers + run->payload);
	if (run->ip.proto == proto_udp)
		store16(run->ip.data + run->ip.l4 + 4, (uint16_t)(run->ip.len - run->ip.l4));
	leave_checksum(&run->ip, &offload);
	if (tun_write(w, &offload, iov, used, run->packets))
		count_received(w, run, run->packets, (uint64_t)run->packets * run->headers + run->payload);
}

/* The plain twin of a GSO write, for super-packets that came whole where the TUN takes none. */
static void write_segments(struct worker *w, struct run *run)
{
	static const struct virtio_net_hdr plain;
	struct segmenter segments;
	uint32_t len;

	segment_begin(&segments, &run->ip, run->gso_size); /* what it refuses is no run of several */
	while ((len = segment_size(&segments)) > 0) {
		struct iovec iov[2] = {{0}, {w->receive.scratch, len}};

		segment_next(&segments, w->receive.scratch);
		if (tun_write(w, &plain, iov, 2, 1))
			count_received(w, run, 1, len);
	}
}

void coalesce_flush(struct worker *w)
{
	struct receive_batch *batch = &w->receive;

	for (uint32_t i = 0; i < batch->runs; i++) {
		struct run *run = &batch->run[i];
		uint32_t needed = run->ip.proto == proto_udp ? DP_OFFLOAD_TUN_USO : DP_OFFLOAD_TUN_GSO;

		/* What was joined before an offload was taken back is still written as such. */
		if (run->payload <= run->gso_size)
			write_whole(w, run);
		else if (run->first || w->offloads & needed)
			write_joined(w, run);
		else
			write_segments(w, run);
	}
	batch->runs = 0;
	batch->parts = 1; /* part 0 is nobody's: 0 ends a chain */
}
