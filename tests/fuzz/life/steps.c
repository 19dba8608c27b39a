/* SPDX-License-Identifier: Apache-2.0 */
/* What a step of the input does: mostly what pods and peers would, with one thing wrong. */
#include <errno.h>

#include "edges/tun.h"
#include "life/play.h"

enum {
	segments_max = 800, /* that one input makes: over 1,000 inputs a second */
	bytes_max = 100000,
	stream_port = 40000,
};

static const uint8_t own_mac[6] = {2, 0, 0, 0, 0, 1};

static uint32_t take8(struct play *play)
{
	return play->at < play->end ? *play->at++ : 0;
}

static uint32_t take16(struct play *play)
{
	uint32_t high = take8(play);

	return high << 8 | take8(play);
}

/* The table. */

static bool same_prefix(const struct dp_peer *a, const struct dp_peer *b)
{
	return a->prefix.family == b->prefix.family && a->prefix_len == b->prefix_len &&
	       same_bits(a->prefix.bytes, b->prefix.bytes, a->prefix_len);
}

void commit(struct play *play)
{
	bool is_double = false;
	int error = dp_commit(play->kernel.dp);

	for (uint32_t i = 0; i < slots; i++)
		for (uint32_t j = 0; j < i; j++)
			is_double |= play->staged[i].prefix.family && same_prefix(&play->staged[i], &play->staged[j]);
	CHECK(error == (is_double ? -EEXIST : 0));
	if (!error)
		memcpy(play->committed, play->staged, sizeof(play->staged));
	play->commits += !error;
}

static struct dp_address hop_address(uint32_t hop, uint32_t family)
{
	if (family == 4)
		return (struct dp_address){4, {192, 0, 2, (uint8_t)(2 + hop)}};
	return (struct dp_address){6, {0xfd, 0x99, [15] = (uint8_t)(2 + hop)}};
}

struct dp_peer make_peer(uint32_t version, uint32_t net, uint32_t hop, uint32_t mac, uint32_t family)
{
	struct dp_peer peer = {.prefix_len = version == 4 ? 24 : 64, .next_hop = hop_address(hop, family), .local = net == 1};

	if (version == 4)
		peer.prefix = (struct dp_address){4, {10, 5, (uint8_t)net, 0}};
	else
		peer.prefix = (struct dp_address){6, {0xfd, (uint8_t)net}};
	memcpy(peer.vtep_mac, (uint8_t[6]){2, 0, 0, 0, 0, (uint8_t)mac}, 6);
	return peer;
}

void set_peer(struct play *play, uint32_t slot, const struct dp_peer *peer)
{
	CHECK(dp_peer_set(play->kernel.dp, slot, peer) == 0);
	play->staged[slot] = *peer;
}

static void step_set(struct play *play)
{
	static const uint8_t lengths[2][8] = {{24, 16, 32, 0, 24, 31, 30, 1}, {64, 48, 128, 7, 64, 65, 127, 0}};
	uint32_t slot = take8(play) % slots, what = take8(play), more = take8(play);
	uint32_t version = what & 1 ? 6 : 4;
	uint32_t family = play->kernel.dp->config.underlay_family;
	struct dp_peer peer = make_peer(version, 1 + (what >> 1 & 7), what >> 4 & 3, 2 + (what >> 6), family);

	peer.local = more & 4 ? !peer.local : peer.local;
	peer.prefix_len = lengths[version == 6][(more & 3) | (more >> 2 & 4)];
	if (peer.prefix_len > 24 && version == 4)
		peer.prefix.bytes[3] = 8;
	if (more & 8) {
		struct dp_peer wrong = peer;

		wrong.next_hop.family = 10 - (uint8_t)family;
		wrong.local = 0;
		CHECK(dp_peer_set(play->kernel.dp, slot, &wrong) == -EAFNOSUPPORT);
		wrong = peer;
		wrong.prefix_len = version == 4 ? 33 : 129;
		CHECK(dp_peer_set(play->kernel.dp, slot, &wrong) == -EINVAL);
		wrong.prefix = (struct dp_address){.family = 5};
		wrong.prefix_len = 8;
		CHECK(dp_peer_set(play->kernel.dp, slot, &wrong) == -EINVAL);
		CHECK(dp_peer_set(play->kernel.dp, DP_MAX_PEERS, &peer) == -EINVAL);
		CHECK(dp_peer_clear(play->kernel.dp, DP_MAX_PEERS) == -EINVAL);
	}
	set_peer(play, slot, &peer);
}

static void step_clear(struct play *play)
{
	uint32_t slot = take8(play) % slots;

	CHECK(dp_peer_clear(play->kernel.dp, slot) == 0);
	play->staged[slot].prefix.family = 0;
}

/* Packets. */

static uint8_t *allot(struct play *play, uint32_t len)
{
	uint8_t *at = play->arena + play->arena_used;

	CHECK(play->arena_used + len <= arena_max);
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
	CHECK(queue->used < items_max);
	return &queue->item[queue->used++];
}

struct made {
	struct twin_spec spec;
	uint32_t hop;
	uint32_t seed;
	uint32_t *next_sequence;
};

/* Ends that a packet ought not to have, or only just. */
static void put_odd_end(struct made *made, uint32_t which, uint32_t family, bool is_in)
{
	static const uint8_t groups[4][2][16] = {
		{{224, 0, 0, 1}, {0xff, 2}}, {{255, 255, 255, 255}, {0xfe, 0x80}}, {{0, 0, 0, 1}, {0}}, {{127, 0, 0, 1}, {[15] = 1}},
	};
	struct twin_spec *spec = &made->spec;
	bool six = spec->version == 6;

	switch (which & 7) {
	case 0: case 1:
		memcpy(is_in ? spec->source : spec->destination, hop_address(made->hop, family).bytes, six ? 16 : 4);
		break;
	case 2:
		spec->destination[3] = 255;
		break;
	case 3:
		spec->destination[six ? 1 : 2] = (uint8_t)(which >> 3 & 7);
		break;
	case 4:
		spec->source[six ? 1 : 2] = (uint8_t)(which >> 3 & 7);
		break;
	case 5:
		memcpy(spec->source, groups[which >> 3 & 3][six], 16);
		break;
	case 6: case 7:
		memcpy(spec->destination, groups[which >> 3 & 3][six], 16);
		break;
	}
}

/* Between us (net 1) and the net behind a hop; streams go on where their last packet ended. */
static struct made make_spec(struct play *play, bool is_in)
{
	static const uint8_t flags[8] = {0x10, 0x10, 0x18, 0x11, 0x90, 0x12, 0x04, 0x99}, ttls[4] = {64, 64, 2, 1};
	uint32_t what = take8(play), how = take8(play), payload = take16(play);
	uint32_t hop = what >> 2 & 3, flow = what >> 4 & 3, header = 20 + (how & 0x80 ? 12 : 0);
	bool is_odd = payload >= 0xa000 && payload < 0xc000;
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
	if (is_odd)
		put_odd_end(&made, payload, play->kernel.dp->config.underlay_family, is_in);
	if (is_odd)
		payload = payload >> 6 & 0x7f;
	else if (payload < 0xc000)
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

/* Make the checksums right for what now stands there. */
static void refit(uint8_t *packet, uint32_t len)
{
	struct look look;
	uint32_t transport_len;

	if (len >= 20 && packet[0] >> 4 == 4 && (packet[0] & 15) >= 5 && (packet[0] & 15) * 4u <= len)
		cut_header_checksum(packet, (packet[0] & 15) * 4u);
	if (!look_at(packet, len, &look) || !look.proto)
		return;
	transport_len = look_transport_len(&look);
	store16(packet + look_checksum_at(&look), 0);
	store16(packet + look_checksum_at(&look), twin_checksum(packet + look.l4, transport_len, look_pseudo(&look, transport_len)));
}

/* One byte of one of the packets, each of size bytes with a header of overhead before it; mostly one of its headers'. */
static void mutate(struct play *play, uint8_t *data, uint32_t len, uint32_t size, uint32_t overhead)
{
	uint32_t where = take16(play), with = take8(play), at, begin;

	if (!len)
		return;
	if (where & 0x4000)
		at = ((where >> 7 & 63) * size + (where & 0x7f)) % len;
	else
		at = (where & 0x3fff) % len;
	data[at] ^= (uint8_t)with;
	begin = at - at % size + overhead;
	if (where & 0x8000 && begin < len)
		refit(data + begin, len - begin < size - overhead ? len - begin : size - overhead);
}

/* A pod's packets. */

static bool is_usual(const struct look *look, const struct virtio_net_hdr *offload)
{
	return look->proto && offload->csum_start == look->l4 && offload->csum_start + offload->csum_offset == look_checksum_at(look);
}

static void offer_out(struct play *play, uint8_t *data, uint32_t len, const struct virtio_net_hdr *offload)
{
	struct item *item = add_item(&play->kernel.tun[play->queue]);
	bool vnet_hdr = play->kernel.dp->config.vnet_hdr;
	struct look look;

	*item = (struct item){.data = data, .len = len, .offload = *offload};
	if (vnet_hdr && offload->flags && look_at(data, len, &look) && !is_usual(&look, offload))
		play->is_unordered = true;
	judge_out(&play->verdict, &play->rules, data, len, vnet_hdr ? offload : NULL);
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
		mutate(play, data, len, len, 0);
	if (how & 7) {
		struct look look;

		offload.gso_type = types[how & 7];
		offload.gso_size = (uint16_t)gso_size;
		if (!offload.gso_type && look_at(data, len, &look))
			offload.gso_type = look.proto == proto_udp ? VIRTIO_NET_HDR_GSO_UDP_L4 : VIRTIO_NET_HDR_GSO_TCPV4;
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
	if (!overhead_of(&kernel->dp->config))
		return 0;
	memcpy(out, (uint8_t[8]){8, 0, 0, 0, 0, 0, 1, 0}, 8);
	memcpy(out + 8, own_mac, 6);
	memcpy(out + 14, (uint8_t[6]){2, 0, 0, 0, 0, (uint8_t)mac}, 6);
	store16(out + 20, version == 4 ? 0x0800 : 0x86dd);
	return vxlan_overhead;
}

/* What the kernel hands over of a train: to a socket that did not ask for trains, its datagrams; but a UDP super-packet that nobody
 * cut looks as one, and stays whole.
 */
static void offer_in(struct play *play, const struct item *train)
{
	struct queue *queue = &play->kernel.underlay[play->queue];
	struct arrived arrived = {train->from, train->data, train->len, train->segment > 0 ? (uint32_t)train->segment : 0,
				  train->ecn, train->truncated};
	uint32_t overhead = play->kernel.dp->encap.overhead, segment = arrived.segment;
	bool is_train = segment && segment < train->len && !train->truncated;
	struct look look;
	bool is_whole = train->len > overhead && look_at(train->data + overhead, train->len - overhead, &look) &&
			overhead + look.len == train->len && look.proto == proto_udp;

	judge_in(&play->verdict, &play->rules, &arrived);
	if (!is_train || is_whole || play->kernel.dp->offloads & DP_OFFLOAD_UDP_GRO) {
		*add_item(queue) = *train;
		return;
	}
	for (uint32_t at = 0; at < train->len; at += segment) {
		struct item *item = add_item(queue);

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

/* The kernel joins no more datagrams (UDP_GRO_CNT_MAX). */
static uint32_t as_joined(uint32_t segment, uint32_t len)
{
	return segment && len / segment >= train_segments ? len / train_segments + 1 : segment;
}

static void step_in(struct play *play, bool is_raw)
{
	uint32_t how = take8(play), more = take8(play), packets = (1 + (how & 15)) * (more & 0x10 ? 4 : 1), len, segment = 0, family;
	uint32_t hop = more & 3, overhead = play->kernel.dp->encap.overhead;
	struct item item = {.ecn = more >> 2 & 3, .truncated = (more & 0xf0) == 0xf0};
	uint8_t *data;

	if (is_raw) {
		len = take16(play);
		segment = take16(play);
		if (len > (uint32_t)(play->end - play->at))
			len = (uint32_t)(play->end - play->at);
		segment = as_joined(segment, len);
		if (!afford(play, segment ? 1 + len / segment : 1, len))
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
		segment = packets > 1 ? overhead + (made.spec.version == 4 ? 20u : 40u) +
						(made.spec.proto == proto_tcp ? 20u + made.spec.options : 8u) + made.spec.payload
				      : 0;
		if (packets == 1 && made.spec.proto == proto_udp && how & 0x10) /* an uncut super-packet */
			segment = 1 + take16(play) % 1500;
		hop = made.hop ^ (how & 0x40 ? more & 3 : 0);
	}
	segment = as_joined(segment, len);
	if (how & 0x80)
		mutate(play, data, len, packets > 1 && segment && segment > overhead ? segment : len, overhead);
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

	if (!error && call != call_tun_read)
		error = EPIPE;
	play->kernel.fault[call] = (struct fault){.skip = when & 31, .times = 1 + (when >> 5), .error = error};
}

static void step_time(struct play *play)
{
	static const uint32_t milliseconds[4] = {50, 1000, 3001, 10 * 60 * 1000 + 1};
	uint32_t what = take8(play), forbid = take8(play) & DP_OFFLOAD_ALL;

	play->kernel.clock_ns += (uint64_t)milliseconds[what & 3] * 1000000;
	if (what & 0x80) {
		play->forbid = forbid;
		play->kernel.interrupt_after = 1 + (what >> 2 & 31);
	}
}

bool take_steps(struct play *play)
{
	/* All that was offered is in the core's own memory now. */
	for (uint32_t i = 0; i < kernel_queues; i++) {
		play->kernel.tun[i].used = play->kernel.tun[i].taken = 0;
		play->kernel.underlay[i].used = play->kernel.underlay[i].taken = 0;
	}
	play->arena_used = 0;
	play->has_queue = false;
	if (play->is_commit_due)
		commit(play);
	play->is_commit_due = false;
	while (play->at < play->end && play->steps++ < steps_max) {
		uint32_t step = take8(play);

		if (!play->has_queue)
			play->queue = (step >> 6 & 1) % play->kernel.dp->config.edges[0].tuns;
		play->has_queue = true;
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
	for (uint32_t i = 0; i < kernel_queues; i++)
		if (play->kernel.tun[i].used || play->kernel.underlay[i].used)
			return true;
	return false;
}
