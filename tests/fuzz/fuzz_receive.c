/* SPDX-License-Identifier: Apache-2.0 */
/* Everything a peer can send: arbitrary bytes as one received train, from a leased peer (the worst case: a stranger's
 * datagrams are dropped unread).
 *
 * Input: byte 0 chooses the offloads, byte 1 the outer ECN, bytes 2–3 the train's datagram size; the rest is the train. The verdict
 * (verdict/verdict.h) says what must reach the TUN, byte by byte, and which drop counter has what does not.
 */
#include "kernel/kernel.h"
#include "receive/coalesce.h"
#include "receive/receive.h"
#include "verdict/verdict.h"

static struct dp_peer peers[slots] = {
	{.prefix = {4, {10, 5, 1, 0}}, .prefix_len = 24, .local = 1},
	{.prefix = {6, {0xfd, 1}}, .prefix_len = 64, .local = 1},
	{.prefix = {4, {10, 5, 2, 0}}, .prefix_len = 24, .next_hop = {4, {192, 0, 2, 2}}, .vtep_mac = {2, 0, 0, 0, 0, 2}},
	{.prefix = {6, {0xfd, 2}}, .prefix_len = 64, .next_hop = {4, {192, 0, 2, 2}}, .vtep_mac = {2, 0, 0, 0, 0, 2}},
};
static struct dp *forwarders[DP_OFFLOAD_ALL + 1];
static struct kernel own_kernel = {.is_ipv4 = true, .clock_ns = 1000000000};
static struct verdict verdict;

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
		.source_fds = {kernel_source_fd},
		.edges = {{.tuns = 1, .receives = 1, .tun_fds = {kernel_tun_fd}, .receive_fds = {kernel_receive_fd}}},
	};
	struct dp *dp;

	CHECK(dp_new(&config, &dp) == 0);
	for (uint32_t i = 0; i < slots; i++)
		CHECK(!peers[i].prefix.family || dp_peer_set(dp, i, &peers[i]) == 0);
	CHECK(dp_commit(dp) == 0);
	return dp;
}

static void check(struct dp *dp, const struct dp_counters *before)
{
	struct dp_counters after, *right = &verdict.counters;
	struct sums sums;

	dp_read_counters(dp, &after);
	match(&kernel->host, &verdict.host, true, &sums);
	right->rx_packets = sums.packets;
	right->rx_bytes = sums.bytes;
	for (uint32_t i = 0; i < errors_kinds; i++)
		right->icmp_sent += sums.errors[i];
	right->drop_icmp_limited = after.drop_icmp_limited - before->drop_icmp_limited;
	right->tun_writes = kernel->seen.tun_writes;
	CHECK(kernel->host.used + right->drop_icmp_limited == verdict.host.used);
	CHECK(!right->drop_icmp_limited || verdict.host.used > 50);
	for (size_t word = 0; word < sizeof(after) / 8; word++) {
		uint64_t got = ((uint64_t *)&after)[word] - ((const uint64_t *)before)[word], wanted = ((uint64_t *)right)[word];

		if (got != wanted)
			fprintf(stderr, "counter %zu: %llu, right is %llu\n", word, (unsigned long long)got, (unsigned long long)wanted);
		CHECK(got == wanted);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t train[packet_max];
	struct arrived arrived = {.from.in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0xc0000202)}};
	struct dp_counters before;
	struct rules rules;
	struct dp *dp;

	if (size < 5 || size - 4 > sizeof(train))
		return 0;
	kernel = &own_kernel;
	dp = forwarders[data[0] & DP_OFFLOAD_ALL];
	if (!dp)
		dp = forwarders[data[0] & DP_OFFLOAD_ALL] = make(data[0] & DP_OFFLOAD_ALL);
	kernel->dp = dp;
	kernel->host.used = verdict.host.used = 0;
	kernel->clock_ns += 1000000000; /* ICMP errors may flow again */
	memset(&kernel->seen, 0, sizeof(kernel->seen));
	memset(&verdict.counters, 0, sizeof(verdict.counters));
	rules = (struct rules){&dp->config, peers};
	arrived.segment = load16(data + 2);
	arrived.ecn = data[1] & 3;
	arrived.len = (uint32_t)size - 4;

	/* At the very end of its own memory, so that one byte too far is seen. */
	uint8_t *exact = train + sizeof(train) - arrived.len;

	memcpy(exact, data + 4, arrived.len);
	arrived.data = exact;
	judge_in(&verdict, &rules, &arrived);
	dp_read_counters(dp, &before);
	receive_train(dp->worker[0], dp->table, &arrived.from.sa, exact, arrived.len, arrived.segment, arrived.ecn);
	coalesce_flush(dp->worker[0]);
	check(dp, &before);
	return 0;
}
