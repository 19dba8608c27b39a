/* SPDX-License-Identifier: Apache-2.0 */
/* A forwarder's life: tables that change, packets both ways, errors of every call, offloads taken back, as the input says.
 *
 * Input: 4 bytes of configuration, then steps of one byte (low 4 bits: what, top bit: the next step follows before the worker
 * wakes) and what each needs. The same steps are played twice, to a forwarder with the input's offloads, faults and all, and to its
 * plain twin: no offload, no fault, and super-packets and trains are cut (cut.h) before it sees them. Then must be true:
 *   - what left on the wire and to the host, cut again (kernel.c), is the twin's, in order within each flow, but for what is missing;
 *   - what is missing is what the drop counters of the two last calls say; what left and that are together the twin's, and so are
 *     all other counters, each;
 *   - peers' counters sum up to the totals.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "cut.h"
#include "kernel.h"
#include "tun.h"
#include "tunnel.h"
#include "underlay.h"

#ifdef FORMAT_VXLAN
enum { format = DP_BACKEND_VXLAN };
#else
enum { format = DP_BACKEND_UDP };
#endif

enum {
	slots = 16,
	hops = 4,
	flows = 4,
	steps_max = 64,
	segments_max = 800,        /* that one input makes: over 1,000 inputs a second */
	bytes_max = 100000,
	arena_max = 1 << 20,
	stream_port = 40000,
	clock_start_ns = 1000000000,
	first_nets = 3,             /* ours and two peers', of either family */
};

static const uint8_t own_mac[6] = {2, 0, 0, 0, 0, 1};

/* One playing of the steps. */
struct play {
	struct kernel kernel; /* first: kernel.next gets it */
	bool is_twin;
	const uint8_t *at;
	const uint8_t *end;
	uint32_t steps;
	uint32_t segments;
	uint32_t bytes;
	struct dp_peer staged[slots];
	struct dp_peer committed[slots];
	uint32_t commits;
	bool is_commit_due; /* packets of one waking see one table */
	uint32_t next_sequence[2][hops][flows]; /* out, in */
	uint32_t wholes[2][UINT8_MAX + 1]; /* by family and net */
	uint32_t forbid;    /* by the next interrupt */
	bool has_received;
	uint32_t uncarried; /* packets that have a way, and a virtio-net header that does not fit them; the twin's alone */
	uint32_t arena_used;
	uint8_t arena[arena_max];
};

static struct play subject, twin;

static uint32_t take8(struct play *play)
{
	return play->at < play->end ? *play->at++ : 0;
}

static uint32_t take16(struct play *play)
{
	uint32_t high = take8(play);

	return high << 8 | take8(play);
}

/* The table, slowly. */

static bool same_bits(const uint8_t *a, const uint8_t *b, uint32_t bits)
{
	for (uint32_t bit = 0; bit < bits; bit++)
		if ((a[bit / 8] ^ b[bit / 8]) >> (7 - bit % 8) & 1)
			return false;
	return true;
}

static const struct dp_peer *look_up(const struct play *play, const struct ip *ip)
{
	const uint8_t *address = ip_destination(ip);
	const struct dp_peer *best = NULL;

	for (uint32_t i = 0; i < slots; i++) {
		const struct dp_peer *peer = &play->committed[i];

		if (peer->prefix.family != ip->version || (best && peer->prefix_len < best->prefix_len))
			continue;
		if (same_bits(peer->prefix.bytes, address, peer->prefix_len))
			best = peer;
	}
	return best;
}

static bool same_prefix(const struct dp_peer *a, const struct dp_peer *b)
{
	return a->prefix.family == b->prefix.family && a->prefix_len == b->prefix_len &&
	       same_bits(a->prefix.bytes, b->prefix.bytes, a->prefix_len);
}

static void commit(struct play *play)
{
	bool is_double = false;
	int error = dp_commit(play->kernel.dp);

	for (uint32_t i = 0; i < slots; i++)
		for (uint32_t j = 0; j < i; j++)
			is_double |= play->staged[i].prefix.family && same_prefix(&play->staged[i], &play->staged[j]);
	REQUIRE(error == (is_double ? -EEXIST : 0));
	if (!error)
		memcpy(play->committed, play->staged, sizeof(play->staged));
	play->commits++;
}

static struct dp_address hop_address(uint32_t hop, uint32_t family)
{
	if (family == 4)
		return (struct dp_address){4, {192, 0, 2, (uint8_t)(2 + hop)}};
	return (struct dp_address){6, {0xfd, 0x99, [15] = (uint8_t)(2 + hop)}};
}

static struct dp_peer make_peer(uint32_t version, uint32_t net, uint32_t hop, uint32_t mac, uint32_t family)
{
	struct dp_peer peer = {.prefix_len = version == 4 ? 24 : 64, .next_hop = hop_address(hop, family), .local = net == 1};

	if (version == 4)
		peer.prefix = (struct dp_address){4, {10, 5, (uint8_t)net, 0}};
	else
		peer.prefix = (struct dp_address){6, {0xfd, (uint8_t)net}};
	memcpy(peer.vtep_mac, (uint8_t[6]){2, 0, 0, 0, 0, (uint8_t)mac}, 6);
	return peer;
}

static void set_peer(struct play *play, uint32_t slot, const struct dp_peer *peer)
{
	REQUIRE(dp_peer_set(play->kernel.dp, slot, peer) == 0);
	play->staged[slot] = *peer;
}

static void step_set(struct play *play)
{
	static const uint8_t lengths[2][4] = {{24, 16, 32, 0}, {64, 48, 128, 7}};
	uint32_t slot = take8(play) % slots, what = take8(play), more = take8(play);
	uint32_t version = what & 1 ? 6 : 4;
	uint32_t family = play->kernel.dp->config.underlay_family;
	struct dp_peer peer = make_peer(version, 1 + (what >> 1 & 7), what >> 4 & 3, 2 + (what >> 6), family);

	peer.local = more & 4 ? !peer.local : peer.local;
	peer.prefix_len = lengths[version == 6][more & 3];
	if (more & 8) {
		struct dp_peer wrong = peer;

		wrong.next_hop.family = 10 - (uint8_t)family;
		wrong.local = 0;
		REQUIRE(dp_peer_set(play->kernel.dp, slot, &wrong) == -EAFNOSUPPORT);
		wrong.prefix_len = 129;
		REQUIRE(dp_peer_set(play->kernel.dp, slot, &wrong) == -EINVAL);
		REQUIRE(dp_peer_set(play->kernel.dp, DP_MAX_PEERS, &peer) == -EINVAL);
		REQUIRE(dp_peer_clear(play->kernel.dp, DP_MAX_PEERS) == -EINVAL);
	}
	set_peer(play, slot, &peer);
}

static void step_clear(struct play *play)
{
	uint32_t slot = take8(play) % slots;

	REQUIRE(dp_peer_clear(play->kernel.dp, slot) == 0);
	play->staged[slot].prefix.family = 0;
}

/* Packets. */

static uint8_t *allot(struct play *play, uint32_t len)
{
	uint8_t *at = play->arena + play->arena_used;

	REQUIRE(play->arena_used + len <= arena_max);
	play->arena_used += len;
	return at;
}

/* Whether what comes fits an input's budget. */
static bool afford(struct play *play, uint32_t segments, uint32_t bytes)
{
	if (play->segments + segments > segments_max || play->bytes + bytes > bytes_max)
		return false;
	play->segments += segments;
	play->bytes += bytes;
	return true;
}

static struct item *add_item(struct queue *queue)
{
	REQUIRE(queue->used < items_max);

	struct item *item = &queue->item[queue->used++];

	memset(item, 0, sizeof(*item));
	return item;
}

struct made {
	struct twin_spec spec;
	uint32_t hop;
	uint32_t seed;
	uint32_t *next_sequence;
};

/* Between us (net 1) and the net behind a hop; streams go on where their last packet ended. */
static struct made make_spec(struct play *play, bool is_in)
{
	static const uint8_t flags[8] = {0x10, 0x10, 0x18, 0x11, 0x90, 0x12, 0x04, 0x99}, ttls[4] = {64, 64, 2, 1};
	uint32_t what = take8(play), how = take8(play), payload = take16(play);
	uint32_t hop = what >> 2 & 3, flow = what >> 4 & 3, header = 20 + (how & 0x80 ? 12 : 0);
	struct made made = {
		.hop = hop,
		.seed = what ^ how,
		.next_sequence = &play->next_sequence[is_in][hop][flow],
		.spec = {
			.version = what & 1 ? 6 : 4, .proto = what & 2 ? proto_udp : proto_tcp, .ttl = ttls[how >> 3 & 3],
			.tos = how >> 5 & 3, .flags = flags[how & 7], .dont_fragment = what >> 6 & 1, .window = 500,
			.ports = {(uint16_t)(stream_port + flow), 80}, .options = how & 0x80 ? 12 : 0,
			.acknowledgement = play->next_sequence[!is_in][hop][flow],
		},
	};
	struct twin_spec *spec = &made.spec;
	uint8_t nets[2] = {1, (uint8_t)(2 + hop)}, *ends[2] = {spec->source, spec->destination};

	for (uint32_t end = 0; end < 2; end++) {
		uint8_t net = nets[is_in ? !end : end];

		memcpy(ends[end], spec->version == 4 ? (uint8_t[16]){10, 5, net, 9} : (uint8_t[16]){0xfd, net, [15] = 9}, 16);
	}
	if (is_in && spec->proto == proto_tcp) {
		spec->ports[0] = 80;
		spec->ports[1] = (uint16_t)(stream_port + flow);
	}
	if (payload < 0xc000)
		payload %= 1600;
	else
		payload = (payload - 0xc000) * 4;
	if (payload > packet_max - ipv6_header - header)
		payload = packet_max - ipv6_header - header;
	spec->payload = payload;
	if (what & 0x80)
		*made.next_sequence -= payload;
	spec->sequence = *made.next_sequence;
	spec->id = (uint16_t)(*made.next_sequence >> 4);
	*made.next_sequence += payload;
	return made;
}

static void mutate(struct play *play, uint8_t *data, uint32_t len)
{
	uint32_t at = take16(play), with = take8(play);

	if (len)
		data[at % len] ^= (uint8_t)with;
}

/* A pod's packets. */

static bool is_carried(const struct play *play, const struct ip *ip)
{
	const struct dp_peer *peer = look_up(play, ip);

	return !ip_is_group(ip_destination(ip), ip->version) && peer && !peer->local && (format == DP_BACKEND_VXLAN || ip_ttl(ip) > 1);
}

/* Whether the virtio-net header's story and the packet agree on a super-packet that can be cut. */
static bool is_super(const struct ip *ip, const struct virtio_net_hdr *offload)
{
	uint32_t type = offload->gso_type & ~VIRTIO_NET_HDR_GSO_ECN, gso_size = offload->gso_size;

	if (type == VIRTIO_NET_HDR_GSO_TCPV4 || type == VIRTIO_NET_HDR_GSO_TCPV6) {
		if (ip->proto != proto_tcp || gso_size < 8)
			return false;
	} else if (type != VIRTIO_NET_HDR_GSO_UDP_L4 || ip->proto != proto_udp || !gso_size) {
		return false;
	}
	if (ip->len <= cut_headers(ip) || cut_headers(ip) > header_max)
		return false;
	return ip->proto == proto_tcp || cut_count(ip, gso_size) <= 128;
}

static bool is_checksum_in_packet(const struct ip *ip, const struct virtio_net_hdr *offload)
{
	return offload->csum_start >= ip->header_len && offload->csum_start + offload->csum_offset + 2u <= ip->len;
}

/* Where the unfinished checksum is the transport's own, finishing it changes nothing else that a packet is known by. */
static bool may_finish(const struct ip *ip, const struct virtio_net_hdr *offload)
{
	return (ip->proto == proto_tcp || ip->proto == proto_udp) && offload->csum_start == ip->l4 &&
	       offload->csum_offset == ip_checksum_offset(ip);
}

static void offer_out(struct play *play, uint8_t *data, uint32_t len, const struct virtio_net_hdr *offload)
{
	struct item *item = add_item(&play->kernel.tun);
	struct ip ip;

	*item = (struct item){.data = data, .len = len};
	if (!play->kernel.dp->config.vnet_hdr)
		return;
	item->offload = *offload;
	if (!play->is_twin)
		return;
	if (offload->gso_type == VIRTIO_NET_HDR_GSO_NONE) {
		if (!(offload->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || !ip_parse(data, len, &ip) || ip.len != len ||
		    !is_carried(play, &ip))
			return;
		if (!is_checksum_in_packet(&ip, offload)) {
			play->uncarried++;
		} else if (may_finish(&ip, offload)) {
			cut_finish_checksum(data, len, offload->csum_start, offload->csum_offset);
			memset(&item->offload, 0, sizeof(item->offload));
		}
		return;
	}
	if (!ip_parse(data, len, &ip) || ip.len != len || !is_carried(play, &ip))
		return;
	if (!is_super(&ip, offload)) {
		play->uncarried++;
		return;
	}
	if (cut_headers(&ip) + offload->gso_size > play->kernel.dp->config.mtu && (ip.version == 6 || ip.data[6] & 0x40))
		return;
	play->kernel.tun.used--;
	for (uint32_t i = 0; i < cut_count(&ip, offload->gso_size); i++) {
		uint8_t *out = allot(play, cut_headers(&ip) + offload->gso_size);

		item = add_item(&play->kernel.tun);
		*item = (struct item){.data = out, .len = cut_segment(out, &ip, offload->gso_size, i)};
	}
}

static void step_out(struct play *play, bool is_raw)
{
	static const uint8_t types[8] = {0, 0, 0, 0, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_GSO_UDP, 0x7f};
	struct made made = {0};
	struct virtio_net_hdr offload = {0};
	uint32_t how = take8(play), gso_size = take16(play), len, segments = 1;
	uint8_t *data;

	if (is_raw)
		len = take16(play);
	else
		made = make_spec(play, false), len = ipv6_header + tcp_header + made.spec.options + made.spec.payload;
	if (is_raw && len > (uint32_t)(play->end - play->at))
		len = (uint32_t)(play->end - play->at);
	if (how & 3 && !(how & 0x40)) /* mostly what a device would say */
		gso_size = gso_size % 1500 + 1;
	if (how & 7 && gso_size)
		segments = len / gso_size + 1;
	if (!len || !afford(play, segments, len + segments * header_max))
		return;
	data = allot(play, len);
	if (is_raw) {
		memcpy(data, play->at, len);
		play->at += len;
	} else {
		len = twin_packet(data, &made.spec, (uint8_t)made.seed);
	}
	if (how & 0x80)
		mutate(play, data, len);
	if (how & 7) {
		struct ip ip;

		offload.gso_type = types[how & 7];
		offload.gso_size = (uint16_t)gso_size;
		if (!offload.gso_type && ip_parse(data, len, &ip))
			offload.gso_type = tun_gso_type(&ip);
		if ((how & 7) == 3)
			offload.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
	}
	if (how & 8) {
		bool is_udp = made.spec.proto == proto_udp;
		uint32_t l4 = made.spec.version == 6 ? ipv6_header : ipv4_header;

		offload.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		offload.csum_start = (uint16_t)(how & 0x10 ? take16(play) : l4);
		offload.csum_offset = (uint16_t)(how & 0x20 ? take16(play) : is_udp ? 6 : 16);
		if (!is_raw && len > l4 + 18)
			store16(data + l4 + (is_udp ? 6 : 16), (uint16_t)twin_pseudo(data, len - l4, made.spec.proto));
	}
	offer_out(play, data, len, &offload);
}

/* A peer's datagrams. */

static uint32_t put_encap(uint8_t *out, uint32_t version, uint32_t mac)
{
	if (format == DP_BACKEND_UDP)
		return 0;
	memcpy(out, (uint8_t[8]){8, 0, 0, 0, 0, 0, 1, 0}, 8);
	memcpy(out + 8, own_mac, 6);
	memcpy(out + 14, (uint8_t[6]){2, 0, 0, 0, 0, (uint8_t)mac}, 6);
	store16(out + 20, version == 4 ? 0x0800 : 0x86dd);
	return vxlan_overhead;
}

/* What the kernel hands over of a train: to a socket that did not ask for trains, its datagrams. */
static void offer_in(struct play *play, const struct item *train)
{
	uint32_t overhead = play->kernel.dp->encap.overhead, segment = (uint32_t)train->segment;
	bool is_train = train->segment > 0 && segment < train->len && !train->truncated;
	bool takes_trains = !play->is_twin && play->kernel.dp->offloads & DP_OFFLOAD_UDP_GRO;
	struct ip ip;

	/* One UDP super-packet that nobody cut looks as a train does, and stays whole. */
	if (is_train && train->len > overhead &&
	    ip_parse((uint8_t *)(uintptr_t)train->data + overhead, train->len - overhead, &ip) && overhead + ip.len == train->len &&
	    ip.proto == proto_udp && !ip.fragment)
		takes_trains = true;
	if (!is_train || takes_trains) {
		*add_item(&play->kernel.underlay) = *train;
		return;
	}
	for (uint32_t at = 0; at < train->len; at += segment) {
		struct item *item = add_item(&play->kernel.underlay);

		*item = *train;
		item->data = train->data + at;
		item->len = train->len - at < segment ? train->len - at : segment;
		item->segment = 0;
	}
}

static union underlay_address make_sender(uint32_t hop, uint32_t family)
{
	struct dp_address address = hop_address(hop, family);
	union underlay_address from = {0};

	if (family == 4) {
		from.in.sin_family = AF_INET;
		memcpy(&from.in.sin_addr, address.bytes, 4);
	} else {
		from.in6.sin6_family = AF_INET6;
		memcpy(&from.in6.sin6_addr, address.bytes, 16);
	}
	return from;
}

/* Packets of one stream in one train, all but the last of one size. */
static uint32_t fill_train(uint8_t *out, const struct made *made, uint32_t packets, uint32_t how)
{
	struct twin_spec spec = made->spec;
	uint32_t len = 0;

	for (uint32_t i = 0; i < packets; i++) {
		uint32_t encap = put_encap(out + len, (uint32_t)spec.version, 2 + made->hop);
		uint8_t *packet = out + len + encap, *l4;

		if (i && i + 1 == packets && how & 0x10)
			spec.payload /= 2;

		uint32_t size = twin_packet(packet, &spec, (uint8_t)(made->seed + i));

		if (how & 0x20) { /* left to a device that there was none of */
			l4 = packet + (spec.version == 4 ? ipv4_header : ipv6_header);
			store16(l4 + (spec.proto == proto_tcp ? 16 : 6),
				(uint16_t)twin_pseudo(packet, size - (uint32_t)(l4 - packet), spec.proto));
		}
		if (i)
			*made->next_sequence += spec.payload;
		spec.sequence += spec.payload;
		spec.id++;
		len += encap + size;
	}
	return len;
}

static void step_in(struct play *play, bool is_raw)
{
	uint32_t how = take8(play), more = take8(play), packets = 1 + (how & 15), len, segment = 0, family;
	uint32_t hop = more & 3;
	struct item item = {.ecn = more >> 2 & 3, .truncated = (more & 0xf0) == 0xf0};
	uint8_t *data;

	if (is_raw) {
		len = take16(play);
		segment = take16(play);
		if (len > (uint32_t)(play->end - play->at))
			len = (uint32_t)(play->end - play->at);
		if (!afford(play, 1 + len / (segment ? segment : 1) % train_segments, len))
			return;
		data = allot(play, len);
		memcpy(data, play->at, len);
		play->at += len;
	} else {
		struct made made = make_spec(play, true);
		uint32_t one = vxlan_overhead + ipv6_header + tcp_header + made.spec.options + made.spec.payload;
		uint32_t most = packet_max / one ? packet_max / one : 1;

		packets = packets < most ? packets : most;
		if (one > packet_max || !afford(play, packets * (1 + one / (play->kernel.dp->config.mtu / 2)), packets * one))
			return;
		data = allot(play, packets * one);
		len = fill_train(data, &made, packets, how);
		segment = packets > 1 ? play->kernel.dp->encap.overhead + (made.spec.version == 4 ? 20u : 40u) +
						(made.spec.proto == proto_tcp ? 20u + made.spec.options : 8u) + made.spec.payload
				      : 0;
		if (packets == 1 && made.spec.proto == proto_udp && how & 0x10) /* an uncut super-packet */
			segment = 1 + take16(play) % 1500;
		hop = made.hop ^ (how & 0x40 ? more & 3 : 0);
	}
	play->has_received = true;
	if (segment && len / segment >= train_segments) /* the kernel joins no more (UDP_GRO_CNT_MAX) */
		segment = len / train_segments + 1;
	if (how & 0x80)
		mutate(play, data, len);
	family = play->kernel.dp->config.underlay_family;
	item.from = make_sender(hop, family);
	item.data = data;
	item.len = len;
	item.segment = segment == 0xffff ? -1 : (int)segment;
	offer_in(play, &item);
}

/* Everything else. */

static void step_fault(struct play *play)
{
	static const int errors[16] = {EAGAIN, ENOBUFS, EMSGSIZE, EIO, EINVAL, ECONNREFUSED, EPERM, EINTR,
				       ENETUNREACH, EBADF, ENOMEM, 0, EAGAIN, EIO, EINTR, EINVAL};
	uint32_t what = take8(play), when = take8(play), call = (what & 15) % calls;
	int error = errors[what >> 4];

	if (play->is_twin)
		return;
	if (!error && call != call_tun_read)
		error = EPIPE;
	play->kernel.fault[call] = (struct fault){.skip = when & 31, .times = 1 + (when >> 5), .error = error};
}

static void step_time(struct play *play)
{
	static const uint32_t milliseconds[4] = {50, 1000, 3001, 10 * 60 * 1000 + 1};
	uint32_t what = take8(play), forbid = take8(play) & DP_OFFLOAD_ALL;

	play->kernel.clock_ns += (uint64_t)milliseconds[what & 3] * 1000000;
	if (what & 0x80 && !play->is_twin) {
		play->forbid = forbid;
		play->kernel.interrupt_after = 1 + (what >> 2 & 31);
	}
}

/* Take steps up to the next one after which the worker wakes. */
static bool next(struct kernel *of)
{
	struct play *play = (struct play *)of;

	/* All that was offered is in the core's own memory now. */
	play->kernel.tun.used = play->kernel.tun.taken = 0;
	play->kernel.underlay.used = play->kernel.underlay.taken = 0;
	play->arena_used = 0;
	if (play->is_commit_due)
		commit(play);
	play->is_commit_due = false;
	while (play->at < play->end && play->steps++ < steps_max) {
		uint32_t step = take8(play);

		switch (step & 15) {
		case 0: case 1: case 2: case 3: step_out(play, false); break;
		case 4: case 5: case 6: case 7: step_in(play, false); break;
		case 8: step_out(play, true); break;
		case 9: step_in(play, true); break;
		case 10: step_set(play); break;
		case 11: step_clear(play); break;
		case 12: play->is_commit_due = true; break;
		case 13: case 14: step_fault(play); break;
		case 15: step_time(play); break;
		}
		if (!(step & 0x80))
			return true;
	}
	return play->kernel.tun.used || play->kernel.underlay.used;
}

/* What control may do at any moment without a packet's noticing. */
static void interrupt(struct kernel *of)
{
	struct play *play = (struct play *)of;

	dp_forbid(of->dp, play->forbid);
	if (memcmp(play->staged, play->committed, sizeof(play->staged)) == 0)
		REQUIRE(dp_commit(of->dp) == 0);
}

/* Nobody who has not acknowledged anything gets more than a probe in three seconds, and never UDP. */
static void on_whole(struct kernel *of, const struct ip *super)
{
	struct play *play = (struct play *)of;

	REQUIRE(format == DP_BACKEND_VXLAN && of->dp->offloads & DP_OFFLOAD_TUNNEL_GSO);
	uint32_t *wholes = &play->wholes[super->version == 6][ip_destination(super)[super->version == 6 ? 1 : 2]];

	(*wholes)++;
	if (play->commits == 1 && !play->has_received) {
		REQUIRE(super->proto == proto_tcp);
		REQUIRE(*wholes <= 1 + (of->clock_ns - clock_start_ns) / 3000000000);
	}
}

static struct dp_config make_config(const uint8_t *input, bool is_twin)
{
	static const uint32_t mtus[4] = {1450, 1280, 8950, 600};
	uint32_t family = input[1] & 2 ? 6 : 4;
	struct dp_config config = {
		.backend = format, .vni = 1, .vtep_mac = {2, 0, 0, 0, 0, 1}, .offloads = is_twin ? 0 : input[0] & DP_OFFLOAD_ALL,
		.vnet_hdr = input[1] & 1, .port = 8472, .mtu = mtus[input[1] >> 2 & 3], .underlay_family = family,
		.spin_us = input[1] & 0x10 ? 50 : 0, .tunnel4 = {4, {10, 5, 1, 0}}, .tunnel6 = {6, {0xfd, 1}}, .workers = 1,
		.sources = input[1] & 0x20 ? 3 : 1, .tunnel_fd = input[1] & 0x40 ? -1 : kernel_tunnel_fd,
		.edges = {{.tuns = 1, .receives = 1, .tun_fds = {kernel_tun_fd}, .receive_fds = {kernel_receive_fd}}},
	};

	for (uint32_t i = 0; i < config.sources; i++)
		config.source_fds[i] = kernel_source_fd + (int)i;
	return config;
}

/* As dp_new leaves it; a forwarder's megabytes are not made anew for each input. */
static void begin(struct play *play, const uint8_t *input)
{
	struct kernel *of = kernel = &play->kernel;
	struct dp_config config = make_config(input, play->is_twin);
	struct dp *dp = of->dp;
	struct worker *w;

	of->is_ipv4 = config.underlay_family == 4;
	of->refused = play->is_twin ? 0 : input[2] & (DP_OFFLOAD_ALL | kernel_refuses_names);
	if (!dp) {
		REQUIRE(dp_new(&config, &dp) == 0);
		of->dp = dp;
	}
	w = dp->worker[0];
	memset(of->fault, 0, sizeof(of->fault));
	of->clock_ns = clock_start_ns;
	of->tick_ns = config.spin_us ? 7000 : 0;
	of->interrupt_after = of->fatal_faults = 0;
	of->wire.used = of->host.used = 0;
	of->refused_packets = 0;
	of->next = next;
	of->on_whole = on_whole;
	of->interrupt = interrupt;

	dp->config = config;
	dp->stopping = false;
	dp->offloads = tun_probe(kernel_tun_fd, config.vnet_hdr, config.offloads);
	dp->offloads = underlay_probe(&config, dp->offloads);
	dp->offloads = tunnel_probe(dp, dp->offloads);
	w->offloads = dp->offloads;
	memset(dp->uncut, 0, slots * sizeof(*dp->uncut));
	dp->probes = 0;
	memset(&w->counters, 0, sizeof(w->counters));
	memset(w->peers, 0, slots * sizeof(*w->peers));
	memset(w->icmp_tokens, 0, sizeof(w->icmp_tokens));
	memset(w->icmp_refilled_ns, 0, sizeof(w->icmp_refilled_ns));

	play->steps = play->segments = play->bytes = play->commits = play->uncarried = 0;
	memset(play->wholes, 0, sizeof(play->wholes));
	play->has_received = play->is_commit_due = false;
	memset(play->next_sequence, 0, sizeof(play->next_sequence));
	memset(play->staged, 0, sizeof(play->staged));
	for (uint32_t i = 0; i < slots; i++)
		dp_peer_clear(dp, i);
	for (uint32_t i = 0; i < 2 * first_nets; i++) {
		struct dp_peer peer = make_peer(i % 2 ? 6 : 4, 1 + i / 2, (i / 2 + 3) % 4, 1 + i / 2, config.underlay_family);

		set_peer(play, i, &peer);
	}
	commit(play);
}

static void run(struct play *play, const uint8_t *input, size_t size)
{
	uint32_t lives = 0;

	begin(play, input);
	play->at = input + 4;
	play->end = input + size;
	while (dp_run(play->kernel.dp, 0) != 0) /* an error ended it */
		REQUIRE(lives++ < 10 * steps_max);
	REQUIRE(!lives == !play->kernel.fatal_faults);
}

/* The oracle. */

struct cursor {
	uint64_t flow;
	uint32_t next; /* index + 1 of the flow's next record in the twin's; 0: none is left */
};

enum { cursors_max = 4096 };

static struct cursor cursors[cursors_max];

static struct cursor *find_cursor(uint64_t flow)
{
	for (uint64_t at = flow;; at++) {
		struct cursor *cursor = &cursors[at % cursors_max];

		if (!cursor->flow || cursor->flow == flow)
			return cursor;
	}
}

/* Every record of some is, in the order of its flow, one of all. */
static void check_order(const struct records *some, const struct records *all, bool without_errors)
{
	static uint32_t chain[records_max];

	memset(cursors, 0, sizeof(cursors));
	for (uint32_t i = all->used; i-- > 0;) {
		struct cursor *cursor = find_cursor(all->record[i].flow);

		chain[i] = cursor->next;
		*cursor = (struct cursor){all->record[i].flow, i + 1};
	}
	for (uint32_t i = 0; i < some->used; i++) {
		const struct record *record = &some->record[i];
		struct cursor *cursor = find_cursor(record->flow);
		uint32_t at = cursor->next;

		if (record->is_error && without_errors)
			continue;
		while (at && all->record[at - 1].content != record->content)
			at = chain[at - 1];
		if (!at)
			fprintf(stderr, "record %u of %u (twin: %u) is not the twin's\n", i, some->used, all->used);
		REQUIRE(at);
		cursor->next = chain[at - 1];
	}
}

static void check_peers(const struct play *play, const struct dp_counters *totals)
{
	struct dp_peer_counters peers[slots], sum = {0};

	REQUIRE(dp_read_peer_counters(play->kernel.dp, 0, slots, peers) == 0);
	REQUIRE(dp_read_peer_counters(play->kernel.dp, DP_MAX_PEERS, 1, peers) == -EINVAL);
	for (uint32_t i = 0; i < slots; i++) {
		sum.tx_packets += peers[i].tx_packets;
		sum.tx_bytes += peers[i].tx_bytes;
		sum.rx_packets += peers[i].rx_packets;
		sum.rx_bytes += peers[i].rx_bytes;
	}
	REQUIRE(sum.tx_packets == totals->tx_packets && sum.tx_bytes == totals->tx_bytes);
	REQUIRE(sum.rx_packets == totals->rx_packets && sum.rx_bytes == totals->rx_bytes);
}

static void check(void)
{
	const struct records *wire[2] = {&subject.kernel.wire, &twin.kernel.wire}, *host[2] = {&subject.kernel.host, &twin.kernel.host};
	struct dp_counters counters[2];
	struct play *plays[2] = {&subject, &twin};

	for (int i = 0; i < 2; i++) {
		struct dp_counters *of = &counters[i];

		kernel = &plays[i]->kernel;
		dp_read_counters(kernel->dp, of);
		check_peers(plays[i], of);
		REQUIRE(wire[i]->used == of->tx_packets);
		REQUIRE(host[i]->used == of->rx_packets + of->icmp_sent);
		REQUIRE(kernel->refused_packets == of->drop_tun_error + of->drop_tun_full);
	}
	REQUIRE(counters[1].drop_send_gso >= twin.uncarried);
	check_order(wire[0], wire[1], false);
	check_order(host[0], host[1], counters[0].drop_icmp_limited || counters[1].drop_icmp_limited);

	/* What is about calls, not packets; and what left, with what failed on its last step. */
	for (int i = 0; i < 2; i++) {
		struct dp_counters *of = &counters[i];

		of->tx_packets += of->drop_send_error + of->drop_send_full;
		of->rx_packets += of->icmp_sent + of->drop_icmp_limited + of->drop_tun_error + of->drop_tun_full;
		if (counters[0].drop_send_error + counters[0].drop_send_full)
			of->tx_bytes = 0;
		if (counters[0].drop_tun_error + counters[0].drop_tun_full)
			of->rx_bytes = 0;
	}
	for (int i = 0; i < 2; i++) {
		struct dp_counters *of = &counters[i];

		memset(&of->tun_reads, 0, offsetof(struct dp_counters, drop_send_malformed) - offsetof(struct dp_counters, tun_reads));
		of->drop_send_error = of->drop_send_full = of->drop_tun_error = of->drop_tun_full = of->drop_icmp_limited = 0;
	}
	for (size_t word = 0; word < sizeof(counters[0]) / 8; word++) {
		uint64_t got = ((uint64_t *)&counters[0])[word], right = ((uint64_t *)&counters[1])[word];

		if (got != right)
			fprintf(stderr, "counter %zu: %llu, the twin's %llu\n", word, (unsigned long long)got, (unsigned long long)right);
		REQUIRE(got == right);
	}
}

/* What no input reaches: each allocation refused, no descriptor, wrong configurations, a forwarder's end. */
static void check_making(void)
{
	struct dp_config right = make_config((uint8_t[4]){DP_OFFLOAD_ALL, 1}, false), wrong[8];
	struct dp *dp = NULL;
	uint32_t refusals = 0;

	kernel = &subject.kernel;
	kernel->is_ipv4 = true;
	for (uint32_t i = 0; i < 8; i++)
		wrong[i] = right;
	wrong[0].backend = 3;
	wrong[1].workers = 0;
	wrong[2].sources = DP_MAX_SOURCES + 1;
	wrong[3].mtu = 67;
	wrong[4].port = 65536;
	wrong[5].underlay_family = 5;
	wrong[6].vni = 1 << 24;
	wrong[7].workers = DP_MAX_WORKERS + 1;
	for (uint32_t i = 0; i < 8; i++)
		REQUIRE(i == 6 && format == DP_BACKEND_UDP ? true : dp_new(&wrong[i], &dp) == -EINVAL);
	for (kernel->refused = kernel_refuses_eventfd; kernel->refused <= kernel_refuses_waiting; kernel->refused <<= 1)
		REQUIRE(dp_new(&right, &dp) == -EINVAL);
	kernel->refused = 0;
	for (;; refusals++) {
		kernel_allocations = refusals + 1;
		if (dp_new(&right, &dp) == 0)
			break;
		REQUIRE(kernel_allocations == 0 && !dp);
	}
	REQUIRE(refusals > 10);
	for (uint32_t i = 0; i < 4; i++) {
		struct dp_peer peer = make_peer(i % 2 ? 6 : 4, 1 + i / 2, 1, 1, 4);

		REQUIRE(dp_peer_set(dp, i, &peer) == 0);
	}
	for (refusals = 0;; refusals++) {
		kernel_allocations = refusals + 1;
		if (dp_commit(dp) == 0)
			break;
		REQUIRE(kernel_allocations == 0);
	}
	REQUIRE(refusals > 4);
	kernel_allocations = 0;
	kernel->refuses_randomness = true;
	REQUIRE(dp_commit(dp) == -EIO);
	kernel->refuses_randomness = false;
	REQUIRE(dp_offloads(dp) == (format == DP_BACKEND_UDP ? DP_OFFLOAD_ALL & ~DP_OFFLOAD_TUNNEL_GSO : DP_OFFLOAD_ALL));
	REQUIRE(dp_run(dp, 2) == -EINVAL);
	dp_free(dp);
	dp_free(NULL);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	twin.is_twin = true;
	check_making();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 5)
		return 0;
	run(&subject, data, size);
	run(&twin, data, size);
	check();
	return 0;
}
