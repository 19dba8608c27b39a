/* SPDX-License-Identifier: Apache-2.0 */
/* Underlay to overlay, in the order a datagram meets it:
 *
 *   receive_burst     takes trains from the socket
 *     receive_train     who sent it? then cut into datagrams
 *       receive_datagram  wire format → inner packet → who may send this, to us? → ECN → TTL → checksum
 *         coalesce_add      joins packets of one flow; coalesce_flush writes them
 *
 * What must stay true: no byte is believed before it is checked, and each way out has its own counter, in which a super-packet
 * is the packets that it is. A datagram enters only from a leased peer, with an inner source that this peer holds or is reached
 * at and an inner destination that we hold.
 */
#include "receive/receive.h"

#include "edges/tun.h"
#include "edges/underlay.h"
#include "receive/coalesce.h"
#include "state/uncut.h"

/* A datagram, or a super-packet that nobody cut. */
struct arrival {
	uint8_t *data;
	uint32_t len;
	uint32_t gso_hint; /* the payload of its segments, where the kernel knew it */
	uint32_t sender;
	uint8_t ecn;       /* of the outer header */
};

/* A sender that does not cut, on a link that carries super-packets (veth between containers), hands them over whole: a kernel
 * vxlan, or our own tunnel edge. The payload of their segments is what the kernel reports as the train's segment for UDP. For
 * TCP it is lost on the way (gso_hint 0); the largest that fits the MTU is as good, since segment borders carry no meaning there.
 */
static uint32_t super_gso_size(const struct worker *w, const struct ip *ip, uint32_t gso_hint)
{
	uint32_t mtu = w->dp->config.mtu, headers;

	if (ip->proto != proto_tcp && ip->proto != proto_udp)
		return 0;
	headers = ip_headers(ip);
	if (headers > header_max) /* no segmenter of ours takes it: it stays as it came */
		return 0;
	if (ip->proto == proto_udp)
		return gso_hint;
	return ip->len > mtu && headers < mtu ? mtu - headers : 0;
}

/* What is dropped is read once more, as far as it takes to tell how many packets it is. */
static void drop(const struct worker *w, const struct arrival *arrival, uint64_t *counter)
{
	uint32_t overhead = w->dp->encap.overhead, packets = 1;
	struct ip ip;

	if ((arrival->gso_hint || arrival->len > overhead + w->dp->config.mtu) && arrival->len > overhead &&
	    ip_parse(arrival->data + overhead, arrival->len - overhead, &ip))
		packets = ip_segments(&ip, super_gso_size(w, &ip, arrival->gso_hint));
	count(counter, packets);
}

/* The wire format's own checks; what is left is the inner packet. */
static bool pull(struct worker *w, const struct arrival *arrival)
{
	const struct encap *encap = &w->dp->encap;
	struct dp_counters *counters = &w->counters;

	if (arrival->len < encap->overhead + ipv4_header) {
		drop(w, arrival, &counters->drop_receive_short);
		return false;
	}
	if (!encap->overhead)
		return true;
	switch (encap_vxlan_pull(encap, arrival->data)) {
	case vxlan_ok:
		return true;
	case vxlan_fault_flags:
		drop(w, arrival, &counters->drop_receive_vxlan_flags);
		break;
	case vxlan_fault_vni:
		drop(w, arrival, &counters->drop_receive_vni);
		break;
	case vxlan_fault_mac:
		drop(w, arrival, &counters->drop_receive_inner_mac);
		break;
	case vxlan_fault_type:
		drop(w, arrival, &counters->drop_receive_inner_type);
		break;
	}
	return false;
}

/* The sender's peer that may use the inner source: the one that holds it or, where it is the very address that the datagram
 * came from, any (what a node's own processes answer to a pod keeps the node's address). Returns NULL where none may.
 */
static const struct fib_peer *find_origin(struct worker *w, const struct fib *fib, const struct arrival *arrival, const struct ip *ip)
{
	const uint8_t *mac = w->dp->encap.overhead ? encap_vxlan_sender_mac(arrival->data) : NULL;
	const struct fib_peer *peer = fib_lookup(fib, ip_source(ip), ip->version);

	if (peer && !peer->local && peer->sender == arrival->sender) {
		if (!mac || memcmp(mac, peer->vtep_mac, 6) == 0)
			return peer;
		drop(w, arrival, &w->counters.drop_receive_inner_mac);
		return NULL;
	}
	if (ip_is_group(ip_source(ip), ip->version) ||
	    !fib_is_next_hop(fib_station(fib, arrival->sender, NULL), ip_source(ip), ip->version)) {
		drop(w, arrival, &w->counters.drop_receive_inner_source);
		return NULL;
	}
	peer = fib_station(fib, arrival->sender, mac);
	if (!peer)
		drop(w, arrival, &w->counters.drop_receive_inner_mac);
	return peer;
}

/* The peer that the packet comes from, if it is meant for us. */
static const struct fib_peer *admit(struct worker *w, const struct fib *fib, const struct arrival *arrival, const struct ip *ip)
{
	struct dp_counters *counters = &w->counters;
	const struct fib_peer *peer = find_origin(w, fib, arrival, ip);
	const struct fib_peer *own;

	if (!peer)
		return NULL;
	if (ip_is_group(ip_destination(ip), ip->version)) {
		drop(w, arrival, &counters->drop_receive_multicast);
		return NULL;
	}
	if (icmp_is_router_message(ip)) {
		drop(w, arrival, &counters->drop_receive_ra);
		return NULL;
	}
	own = fib_lookup(fib, ip_destination(ip), ip->version);
	if (!own || !own->local) {
		drop(w, arrival, &counters->drop_receive_inner_destination);
		return NULL;
	}
	if (own->has_broadcast && ip->version == 4 && memcmp(ip_destination(ip), own->broadcast, 4) == 0) {
		drop(w, arrival, &counters->drop_receive_multicast);
		return NULL;
	}
	return peer;
}

/* RFC 6040 section 4.2, figure 4. Returns false where the packet must be dropped. */
static bool merge_ecn(struct ip *ip, uint8_t outer)
{
	if (outer == ecn_ce) {
		if (ip->ecn == ecn_not_ect)
			return false;
		if (ip->ecn != ecn_ce)
			ip_set_ecn(ip, ecn_ce);
	} else if (outer == ecn_ect1 && ip->ecn == ecn_ect0) {
		ip_set_ecn(ip, ecn_ect1);
	}
	return true;
}

static void receive_datagram(struct worker *w, const struct fib *fib, const struct arrival *arrival)
{
	const struct encap *encap = &w->dp->encap;
	struct dp_counters *counters = &w->counters;
	const struct fib_peer *peer;
	enum ip_checksum checksum;
	struct ip ip;

	if (!pull(w, arrival))
		return;
	if (!ip_parse(arrival->data + encap->overhead, arrival->len - encap->overhead, &ip)) {
		drop(w, arrival, &counters->drop_receive_malformed);
		return;
	}
	peer = admit(w, fib, arrival, &ip);
	if (!peer)
		return;
	if (encap->carries_ecn && !merge_ecn(&ip, arrival->ecn)) {
		drop(w, arrival, &counters->drop_receive_ecn);
		return;
	}
	checksum = ip_verify_checksum(&ip);
	if (checksum == ip_checksum_bad) {
		drop(w, arrival, &counters->drop_receive_checksum);
		return;
	}
	if (encap->decrements_ttl) {
		if (ip_ttl(&ip) <= 1) {
			drop(w, arrival, &counters->drop_receive_ttl);
			/* The host routes it back through the TUN to the peer. */
			tun_write_icmp(w, icmp_ttl_exceeded, &ip);
			return;
		}
		ip_decrement_ttl(&ip);
	}
	if (uncut_is_probing(w->dp))
		uncut_received(w->dp, peer, &ip);
	coalesce_add(w, peer, &ip, checksum, super_gso_size(w, &ip, arrival->gso_hint));
}

/* Whether a message that the kernel calls a train is one uncut super-packet: that happens to inner UDP alone, whose segment size
 * the kernel reports as if it were the train's. Only the peer itself can make a train that looks like one, and the packet that
 * it then smuggles in is one it may send anyway.
 */
static bool is_uncut(const struct worker *w, uint8_t *data, uint32_t len)
{
	uint32_t overhead = w->dp->encap.overhead;
	struct ip ip;

	return len > overhead && ip_parse(data + overhead, len - overhead, &ip) && overhead + ip.len == len &&
	       ip.proto == proto_udp && !ip.fragment;
}

void receive_train(struct worker *w, const struct fib *fib, const struct sockaddr *from, uint8_t *data, uint32_t len,
		   uint32_t segment, uint8_t outer_ecn)
{
	struct arrival arrival = {.sender = fib_sender(fib, from), .ecn = outer_ecn};
	uint32_t at = 0;

	if (!segment || segment > len) {
		segment = len;
	} else if (segment < len && is_uncut(w, data, len)) {
		arrival.gso_hint = segment;
		segment = len;
	}
	count(&w->counters.underlay_datagrams, segment ? (len + segment - 1) / segment : 1);
	do {
		arrival.data = data + at;
		arrival.len = len - at < segment ? len - at : segment;
		if (arrival.sender == fib_nobody)
			drop(w, &arrival, &w->counters.drop_receive_unknown_sender);
		else
			receive_datagram(w, fib, &arrival);
		at += segment;
	} while (at < len);
}

int receive_burst(struct worker *w, const struct fib *fib, int fd, bool *is_full)
{
	struct receive_batch *batch = &w->receive;
	int messages = underlay_receive(w, fd);

	for (int i = 0; i < messages; i++) {
		const struct mmsghdr *message = &batch->message[i];
		uint32_t segment;
		uint8_t outer_ecn;

		if (message->msg_hdr.msg_flags & MSG_TRUNC) {
			count(&w->counters.underlay_datagrams, 1);
			count(&w->counters.drop_receive_truncated, 1);
			continue;
		}
		underlay_ancillary(&message->msg_hdr, &segment, &outer_ecn);
		receive_train(w, fib, (const struct sockaddr *)&batch->from[i], batch->buffers + (size_t)i * receive_buffer,
			      message->msg_len, segment, outer_ecn);
	}
	coalesce_flush(w);
	*is_full = messages == messages_max;
	return messages;
}
