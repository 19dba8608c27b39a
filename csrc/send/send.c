/* SPDX-License-Identifier: Apache-2.0 */
/* Overlay to underlay, in the order a packet meets it:
 *
 *   send_burst      reads the TUN until it is empty or the burst is full, then lets the trains go
 *     send_packet     parse → route → TTL → size → ECN and flow, then
 *       send_whole      one packet, where it lies: its header is written into the room before it
 *       send_uncut      a super-packet, by the tunnel edge; where that is not to be used
 *       send_super      a super-packet, cut into wire-size packets behind it in the arena
 *         underlay_queue  joins equal datagrams of one peer to trains
 *
 * What must stay true: a packet is read with encap.overhead bytes of room before it, so encap moves no payload and packets
 * read one after another lie back to back with their headers: a train of them is a single iovec. The arena's first place is
 * aligned for bulk payload, and taken again as soon as nothing waits in the arena: there the cache is warm.
 */
#include "send/send.h"

#include <errno.h>

#include "edges/tun.h"
#include "edges/tunnel.h"
#include "edges/underlay.h"
#include "packet/segment.h"
#include "state/uncut.h"

/* The kernel's own senders stay within these (TCP_MIN_GSO_SIZE; UDP_MAX_SEGMENTS); a pod with a raw device may not, and a
 * 64 KB packet of one-byte segments would keep everybody else waiting.
 */
enum {
	tcp_gso_min = 8,
	udp_segments_max = 128,
	bulk_headers = 52, /* IPv4, and TCP with timestamps */
};

/* Where the arena's first packet is read, so that bulk payload begins on a cache line: the kernel's copy is quickest then. */
static uint32_t arena_lead(const struct worker *w)
{
	return (2 * cache_line - bulk_headers - w->dp->encap.overhead) % cache_line;
}

static void write_encap(const struct encap *encap, uint8_t *inner, uint8_t version, const struct fib_peer *peer)
{
	if (encap->overhead)
		encap_vxlan_push(encap, inner, version, peer);
}

static void send_whole(struct worker *w, const struct ip *ip, const struct fib_peer *peer, uint32_t source)
{
	const struct encap *encap = &w->dp->encap;

	write_encap(encap, ip->data, ip->version, peer);
	underlay_queue(w, ip->data - encap->overhead, ip->len + encap->overhead, peer, source, encap->carries_ecn ? ip->ecn : 0);
}

/* What is queued goes first: it may be of the same flow. */
static bool send_uncut(struct worker *w, const struct segmenter *segments, const struct fib_peer *peer, uint32_t source)
{
	uint32_t packets = segment_count(segments);
	uint64_t probe;

	if (!(w->offloads & DP_OFFLOAD_TUNNEL_GSO) || packets < 2 || !tunnel_fits(w, segments))
		return false;
	if (!uncut_allows(w->dp, peer, &segments->ip, segments->headers, &probe))
		return false;
	write_encap(&w->dp->encap, segments->ip.data, segments->ip.version, peer);
	underlay_flush(w);
	if (!tunnel_send(w, segments, peer, source)) {
		if (probe)
			uncut_forget(w->dp, peer, probe);
		return false;
	}
	w->send.used = arena_lead(w);
	underlay_count(w, peer, packets, segments->ip.len + (uint64_t)(packets - 1) * segments->headers);
	return true;
}

static uint32_t send_super(struct worker *w, struct segmenter *segments, const struct fib_peer *peer, uint32_t source)
{
	struct send_batch *batch = &w->send;
	const struct encap *encap = &w->dp->encap;
	const struct ip *ip = &segments->ip;
	uint32_t keep = batch->used; /* the super-packet itself ends here */
	uint32_t packets = 0, len;

	while ((len = segment_size(segments)) > 0) {
		if (!underlay_has_room(batch) || batch->used + encap->overhead + len > arena_bytes) {
			underlay_flush(w);
			batch->used = keep;
		}

		uint8_t *inner = batch->arena + batch->used + encap->overhead;

		segment_next(segments, inner);
		write_encap(encap, inner, ip->version, peer);
		underlay_queue(w, inner - encap->overhead, len + encap->overhead, peer, source, encap->carries_ecn ? ip->ecn : 0);
		batch->used += encap->overhead + len;
		packets++;
	}
	return packets;
}

/* The peer for the packet's destination; refusals are counted and, where a router owes it, answered. */
static const struct fib_peer *route(struct worker *w, const struct fib *fib, const struct ip *ip, uint32_t packets)
{
	const uint8_t *destination = ip_destination(ip);
	const struct fib_peer *peer;

	if (ip_is_group(destination, ip->version)) {
		count(&w->counters.drop_send_multicast, packets);
		return NULL;
	}
	peer = fib_lookup(fib, destination, ip->version);
	if (peer && !peer->local)
		return peer;
	count(&w->counters.drop_send_no_route, packets);
	tun_write_icmp(w, icmp_no_route, ip);
	return NULL;
}

/* The virtio-net header's story must agree with what we parsed; the kernel's own never disagrees. */
static bool begin_segments(struct segmenter *segments, const struct ip *ip, const struct virtio_net_hdr *offload)
{
	switch (offload->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return ip->proto == proto_tcp && offload->gso_size >= tcp_gso_min && segment_begin(segments, ip, offload->gso_size);
	case VIRTIO_NET_HDR_GSO_UDP_L4:
		return ip->proto == proto_udp && segment_begin(segments, ip, offload->gso_size) &&
		       (ip->len - segments->headers + offload->gso_size - 1) / offload->gso_size <= udp_segments_max;
	}
	return false;
}

static bool finish_checksum(const struct ip *ip, const struct virtio_net_hdr *offload)
{
	uint32_t field = (uint32_t)offload->csum_start + offload->csum_offset;

	if (!(offload->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
		return true;
	if (offload->csum_start < ip->header_len || field + 2 > ip->len)
		return false;
	ip_finish_checksum(ip->data, ip->len, offload->csum_start, offload->csum_offset);
	return true;
}

/* Returns how many datagrams came of it. */
static uint32_t send_packet(struct worker *w, const struct fib *fib, uint8_t *data, uint32_t len,
			    const struct virtio_net_hdr *offload)
{
	const struct dp *dp = w->dp;
	const struct fib_peer *peer;
	struct segmenter segments;
	struct ip ip;
	uint32_t packets; /* that a refused one counts as */
	bool is_super = offload->gso_type != VIRTIO_NET_HDR_GSO_NONE;

	if (!ip_parse(data, len, &ip) || ip.len != len) {
		count(&w->counters.tun_packets, 1);
		count(&w->counters.drop_send_malformed, 1);
		return 0;
	}
	packets = is_super ? ip_segments(&ip, offload->gso_size) : 1;
	count(&w->counters.tun_packets, packets);
	peer = route(w, fib, &ip, packets);
	if (!peer)
		return 0;
	if (dp->encap.decrements_ttl && ip_ttl(&ip) <= 1) {
		count(&w->counters.drop_send_ttl, packets);
		tun_write_icmp(w, icmp_ttl_exceeded, &ip);
		return 0;
	}
	if (is_super ? !begin_segments(&segments, &ip, offload) : !finish_checksum(&ip, offload)) {
		count(&w->counters.drop_send_gso, packets);
		return 0;
	}
	/* Without DF a larger packet goes out whole and the underlay fragments it, as under the kernel's vxlan. */
	if ((is_super ? segments.headers + segments.gso_size : ip.len) > dp->config.mtu && ip_may_not_fragment(&ip)) {
		count(&w->counters.drop_send_too_big, packets);
		tun_write_icmp(w, icmp_too_big, &ip);
		return 0;
	}
	if (dp->encap.decrements_ttl)
		ip_decrement_ttl(&ip);

	if (uncut_is_probing(dp))
		uncut_sent(w->dp, peer, &ip);

	uint32_t source = (dp->encap.entropy ? ip_flow_hash(&ip) : w->index) % dp->config.sources;

	if (is_super && send_uncut(w, &segments, peer, source))
		return 1;
	if (is_super)
		return send_super(w, &segments, peer, source);
	send_whole(w, &ip, peer, source);
	return 1;
}

int send_burst(struct worker *w, const struct fib *fib, int fd, bool *is_full)
{
	struct send_batch *batch = &w->send;
	uint32_t overhead = w->dp->encap.overhead, datagrams = 0, bytes = 0;
	int packets = 0, got = 0;

	batch->used = arena_lead(w);
	/* Two bounds in bytes: what was read, for the other direction's sake, and the room that is left. */
	while (packets < burst_packets && datagrams < burst_datagrams && bytes < burst_bytes && batch->used < burst_bytes) {
		struct virtio_net_hdr offload;
		uint8_t *inner = batch->arena + batch->used + overhead;

		if (!underlay_has_room(batch)) {
			underlay_flush(w);
			batch->used = arena_lead(w);
			continue;
		}
		got = tun_read(w, fd, inner, &offload);
		if (got <= 0)
			break;
		packets++;
		/* Counted even if the packet is dropped below: a burst's length stays bounded whatever it holds. */
		bytes += overhead + (uint32_t)got;
		batch->used += overhead + (uint32_t)got;
		datagrams += send_packet(w, fib, inner, (uint32_t)got, &offload);
	}
	underlay_flush(w);
	*is_full = got > 0;
	return got < 0 ? got : packets;
}
