/* SPDX-License-Identifier: Apache-2.0 */
/* Everything a peer can send: arbitrary bytes as one received train, from a leased peer (the worst case: a stranger's
 * datagrams are dropped unread).
 *
 * Input: byte 0 chooses the offloads (low 5 bits), byte 1 the outer ECN, bytes 2–3 the train's datagram size; the rest is the
 * train. Invariants beside the sanitizers': each datagram of the train is either delivered or in exactly one drop counter, in
 * both a super-packet counts as its segments, and nothing reaches the TUN when all were dropped.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "coalesce.h"
#include "receive.h"

static struct dp *forwarders[DP_OFFLOAD_ALL + 1];

static struct dp *make(uint32_t offloads)
{
	struct dp_config config = {
#ifdef FORMAT_VXLAN
		.backend = DP_BACKEND_VXLAN, .vni = 1, .vtep_mac = {2, 0, 0, 0, 0, 1},
#else
		.backend = DP_BACKEND_UDP,
#endif
		.offloads = offloads, .vnet_hdr = offloads & 1, .port = 8472, .mtu = 1450, .underlay_family = 4,
		.tunnel4 = {4, {10, 5, 1, 0}}, .tunnel6 = {6, {0xfd, 1}}, .workers = 1, .sources = 1, .tunnel_fd = -1,
	};
	struct dp_peer peers[] = {
		{.prefix = {4, {10, 5, 1, 0}}, .prefix_len = 24, .local = 1},
		{.prefix = {6, {0xfd, 1}}, .prefix_len = 64, .local = 1},
		{.prefix = {4, {10, 5, 2, 0}}, .prefix_len = 24, .next_hop = {4, {192, 0, 2, 2}}, .vtep_mac = {2, 0, 0, 0, 0, 2}},
		{.prefix = {6, {0xfd, 2}}, .prefix_len = 64, .next_hop = {4, {192, 0, 2, 2}}, .vtep_mac = {2, 0, 0, 0, 0, 2}},
	};
	struct dp *dp;

	config.edges[0].tuns = config.edges[0].receives = 1;
	config.edges[0].tun_fds[0] = eventfd(0, 0);
	config.edges[0].receive_fds[0] = config.source_fds[0] = socket(AF_INET, SOCK_DGRAM, 0);
	if (dp_new(&config, &dp) != 0)
		abort();
	/* It takes every write, but nobody can wait for it, as a worker does for its TUN. */
	if (dup2(open("/dev/null", O_RDWR), config.edges[0].tun_fds[0]) < 0)
		abort();
	for (uint32_t i = 0; i < 4; i++)
		if (dp_peer_set(dp, i, &peers[i]) != 0)
			abort();
	if (dp_commit(dp) != 0)
		abort();
	return dp;
}

static uint64_t drops(const struct dp_counters *c)
{
	const uint64_t *first = &c->drop_receive_unknown_sender, *last = &c->drop_receive_ttl;
	uint64_t sum = 0;

	for (const uint64_t *at = first; at <= last; at++)
		sum += *at;
	return sum;
}

/* How many packets a datagram is. segment: as the kernel reports it, which is of weight for a super-packet of UDP alone; one of
 * TCP shows by its size.
 */
static uint64_t packets_of(const struct dp *dp, uint8_t *datagram, uint32_t len, uint32_t segment)
{
	uint32_t overhead = dp->encap.overhead, mtu = dp->config.mtu, headers, gso_hint = 0;
	struct ip ip;

	if (len <= overhead || !ip_parse(datagram + overhead, len - overhead, &ip))
		return 1;
	if (ip.proto == proto_tcp && ip.len > mtu) {
		headers = ip.l4 + (uint32_t)(ip.data[ip.l4 + 12] >> 4) * 4;
		gso_hint = headers < mtu ? mtu - headers : 0;
	} else {
		headers = ip.l4 + udp_header;
		if (ip.proto == proto_udp)
			gso_hint = segment;
	}
	return gso_hint && ip.len > headers ? (ip.len - headers + gso_hint - 1) / gso_hint : 1;
}

static bool is_whole(const struct dp *dp, uint8_t *train, uint32_t len)
{
	uint32_t overhead = dp->encap.overhead;
	struct ip ip;

	return len > overhead && ip_parse(train + overhead, len - overhead, &ip) && overhead + ip.len == len && ip.proto == proto_udp &&
	       !ip.fragment;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = 0x020200c0};
	static uint8_t train[packet_max];
	struct dp_counters before, after;
	uint32_t len, segment;
	uint64_t packets = 0, ended;
	struct dp *dp;

	if (size < 5 || size - 4 > sizeof(train))
		return 0;
	dp = forwarders[data[0] & DP_OFFLOAD_ALL];
	if (!dp)
		dp = forwarders[data[0] & DP_OFFLOAD_ALL] = make(data[0] & DP_OFFLOAD_ALL);
	segment = load16(data + 2);
	len = (uint32_t)size - 4;
	/* At the very end of its own memory, so that one byte too far is seen. */
	uint8_t *exact = train + sizeof(train) - len;

	memcpy(exact, data + 4, len);
	if (!segment || segment > len)
		segment = len;
	if (segment < len && is_whole(dp, exact, len))
		packets = packets_of(dp, exact, len, segment);
	else
		for (uint32_t at = 0; at < len; at += segment)
			packets += packets_of(dp, exact + at, len - at < segment ? len - at : segment, 0);
	dp_read_counters(dp, &before);
	receive_train(dp->worker[0], dp->table, (const struct sockaddr *)&from, exact, len, segment, data[1] & ecn_mask);
	coalesce_flush(dp->worker[0]);
	dp_read_counters(dp, &after);

	ended = drops(&after) - drops(&before) + (after.rx_packets - before.rx_packets);
	if (ended != packets)
		abort();
	if (after.rx_packets == before.rx_packets && after.tun_writes - before.tun_writes > after.icmp_sent - before.icmp_sent)
		abort();
	return 0;
}
