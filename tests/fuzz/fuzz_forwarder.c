/* SPDX-License-Identifier: Apache-2.0 */
/* A forwarder's life: tables that change, packets both ways, errors of every call, offloads taken back, as the input says.
 *
 * Input: 4 bytes of configuration, then steps (life/steps.c) of one byte (low 4 bits: what, bit 6: which queue, top bit: the next step
 * follows before the worker wakes) and what each needs. The verdict (verdict/verdict.h) says of each packet, when it is offered, what must
 * come out. Then must be true:
 *   - what left on the wire and to the host, cut again (kernel/), is what the verdict says, byte by byte, in order within each
 *     flow, a flow by one socket; what is missing is what failed on its last step;
 *   - every counter is right: each drop the one that the verdict names, what failed as the calls failed, peers' by packets and bytes.
 */
#include <errno.h>
#include <unistd.h>

#include "edges/tun.h"
#include "edges/tunnel.h"
#include "edges/underlay.h"
#include "life/play.h"
#include "run/bulk.h"

enum {
	clock_start_ns = 1000000000,
	errors_burst = 50,
	errors_per_ms = 1, /* edges/tun.h */
};

static struct play play;

static bool next(struct kernel *of)
{
	return take_steps((struct play *)of);
}

/* What control may do at any moment without a packet's noticing. */
static void interrupt(struct kernel *of)
{
	struct play *in = (struct play *)of;

	dp_forbid(of->dp, in->forbid);
	if (memcmp(in->staged, in->committed, sizeof(in->staged)) == 0)
		commit(in);
}

static void on_whole(struct kernel *of, const struct look *super, bool is_refused)
{
	struct play *in = (struct play *)of;

	CHECK(format == DP_BACKEND_VXLAN && of->dp->offloads & DP_OFFLOAD_TUNNEL_GSO);
	wholes_left(&in->wholes, &in->rules, of->clock_ns, super, is_refused);
}

static void on_arrival(struct kernel *of, const struct item *item)
{
	struct play *in = (struct play *)of;
	uint32_t overhead = of->dp->encap.overhead, segment = item->segment > 0 ? (uint32_t)item->segment : item->len;
	struct look look;

	for (uint32_t at = 0; at + overhead < item->len; at += segment)
		if (look_at(item->data + at + overhead, item->len - at - overhead, &look))
			wholes_came(&in->wholes, &look);
}

struct dp_config make_config(const uint8_t *input)
{
	static const uint32_t mtus[4] = {1450, 1280, 8950, 600};
	uint32_t family = input[1] & 2 ? 6 : 4;
	struct dp_config config = {
		.backend = format, .vni = 1, .vtep_mac = {2, 0, 0, 0, 0, 1}, .offloads = input[0] & DP_OFFLOAD_ALL,
		.vnet_hdr = input[1] & 1, .port = 8472, .mtu = mtus[input[1] >> 2 & 3], .underlay_family = family,
		.spin_us = input[1] & 0x10 ? 50 : 0, .tunnel4 = {4, {10, 5, 1, 0}}, .tunnel6 = {6, {0xfd, 1}}, .workers = 1,
		.sources = input[1] & 0x20 ? 3 : 1, .tunnel_fd = input[1] & 0x40 ? -1 : kernel_tunnel_fd,
		.edges = {{.tuns = input[1] & 0x80 ? 2 : 1, .receives = input[1] & 0x80 ? 2 : 1}},
	};

	for (int i = 0; i < kernel_queues; i++) {
		config.edges[0].tun_fds[i] = kernel_tun_fd + i;
		config.edges[0].receive_fds[i] = kernel_receive_fd + i;
	}
	for (uint32_t i = 0; i < config.sources; i++)
		config.source_fds[i] = kernel_source_fd + (int)i;
	return config;
}

/* As dp_new leaves it; a forwarder's megabytes are not made anew for each input. */
static void begin_forwarder(struct dp *dp, const struct dp_config *config)
{
	dp->config = *config;
	dp->stopping = false;
	dp->offloads = tun_probe(kernel_tun_fd, config->vnet_hdr, config->offloads);
	dp->offloads = underlay_probe(config, dp->offloads);
	dp->offloads = tunnel_probe(dp, dp->offloads);
	memset(dp->uncut, 0, slots * sizeof(*dp->uncut));
	dp->probes = 0;
	close(dp->worker[0]->wait_fd);
	close(dp->worker[1]->wait_fd);
	for (uint32_t i = 0; i < 2; i++) {
		struct worker *w = dp->worker[i];

		w->offloads = dp->offloads;
		CHECK(bulk_watch(w) == 0);
		memset(w->watched, 0, sizeof(w->watched));
		memset(&w->counters, 0, sizeof(w->counters));
		memset(w->peers, 0, slots * sizeof(*w->peers));
		memset(w->icmp_tokens, 0, sizeof(w->icmp_tokens));
		memset(w->icmp_refilled_ns, 0, sizeof(w->icmp_refilled_ns));
	}
}

/* What an offload that the kernel refuses takes with it. */
static void check_offloads(uint32_t offloads, const struct dp_config *config, uint32_t refused)
{
	uint32_t right = config->offloads & ~(refused & DP_OFFLOAD_ALL & ~DP_OFFLOAD_COALESCE);

	if (!config->vnet_hdr || !(config->offloads & DP_OFFLOAD_TUN_GSO))
		right &= ~(DP_OFFLOAD_TUN_GSO | DP_OFFLOAD_TUN_USO | DP_OFFLOAD_COALESCE);
	else if (!(right & DP_OFFLOAD_TUN_GSO) && !(right & DP_OFFLOAD_TUN_USO))
		right &= ~DP_OFFLOAD_COALESCE;
	else
		right |= DP_OFFLOAD_TUN_GSO; /* one that takes both was not asked for one */
	if (format == DP_BACKEND_UDP || !(right & DP_OFFLOAD_TUN_GSO) || config->tunnel_fd < 0 ||
	    refused & (kernel_refuses_names | DP_OFFLOAD_COALESCE))
		right &= ~DP_OFFLOAD_TUNNEL_GSO;
	CHECK(offloads == right);
}

static void begin(const uint8_t *input)
{
	struct kernel *of = kernel = &play.kernel;
	struct dp_config config = make_config(input);

	of->is_ipv4 = config.underlay_family == 4;
	of->refused = input[2] & (DP_OFFLOAD_ALL | kernel_refuses_names);
	if (!of->dp)
		CHECK(dp_new(&config, &of->dp) == 0);
	begin_forwarder(of->dp, &config);
	check_offloads(dp_offloads(of->dp), &config, of->refused);
	memset(of->fault, 0, sizeof(of->fault));
	memset(&of->seen, 0, sizeof(of->seen));
	of->clock_ns = clock_start_ns;
	of->tick_ns = config.spin_us ? 7000 : 0;
	of->interrupt_after = 0;
	of->fatal_error = 0;
	of->wire.used = of->host.used = 0;
	of->socket_drops = input[3];
	of->next = next;
	of->on_whole = on_whole;
	of->on_arrival = on_arrival;
	of->interrupt = interrupt;

	play.steps = play.segments = play.bytes = play.commits = 0;
	play.is_unordered = play.is_commit_due = false;
	play.rules = (struct rules){&of->dp->config, play.committed};
	play.verdict.wire.used = play.verdict.host.used = 0;
	memset(&play.verdict.counters, 0, sizeof(play.verdict.counters));
	memset(play.verdict.errors, 0, sizeof(play.verdict.errors));
	memset(&play.wholes, 0, sizeof(play.wholes));
	memset(play.next_sequence, 0, sizeof(play.next_sequence));
	memset(play.staged, 0, sizeof(play.staged));
	for (uint32_t i = 0; i < slots; i++)
		dp_peer_clear(of->dp, i);
	for (uint32_t i = 0; i < 2 * first_nets; i++) {
		struct dp_peer peer = make_peer(i % 2 ? 6 : 4, 1 + i / 2, (i / 2 + 3) % 4, 1 + i / 2, config.underlay_family);

		set_peer(&play, i, &peer);
	}
	commit(&play);
}

static void run(const uint8_t *input, size_t size)
{
	uint32_t lives = 0;

	begin(input);
	play.at = input + 4;
	play.end = input + size;
	for (;;) {
		int error = dp_run(play.kernel.dp, 0);

		CHECK(error == -play.kernel.fatal_error);
		play.kernel.fatal_error = 0;
		if (!error)
			return;
		CHECK(lives++ < 10 * steps_max);
	}
}

/* ICMP errors: all that are owed, but for what the budget of each kind does not allow. Returns how many of them left. */
static uint64_t check_errors(const struct dp_counters *counters, const struct sums *sums)
{
	uint64_t allowed = errors_burst + (play.kernel.clock_ns - clock_start_ns) / 1000000 * errors_per_ms + 1, limited = 0, sent = 0;

	for (uint32_t i = 0; i < errors_kinds; i++) {
		CHECK(sums->errors[i] <= allowed);
		sent += sums->errors[i];
		if (play.verdict.errors[i] > errors_burst)
			limited += play.verdict.errors[i] - errors_burst;
	}
	CHECK(counters->drop_icmp_limited <= limited);
	CHECK(counters->icmp_sent == sent);
	return sent;
}

static void check_peers(const struct sums *out, const struct sums *in)
{
	struct dp_peer_counters peers[slots], sum = {0};
	bool is_all = out->packets == play.verdict.counters.tx_packets && in->packets == play.verdict.counters.rx_packets;

	CHECK(dp_read_peer_counters(play.kernel.dp, 0, slots, peers) == 0);
	CHECK(dp_read_peer_counters(play.kernel.dp, DP_MAX_PEERS, 1, peers) == -EINVAL);
	CHECK(dp_read_peer_counters(play.kernel.dp, DP_MAX_PEERS + 1, 0, peers) == -EINVAL);
	for (uint32_t i = 0; i < slots; i++) {
		sum.tx_packets += peers[i].tx_packets;
		sum.tx_bytes += peers[i].tx_bytes;
		sum.rx_packets += peers[i].rx_packets;
		sum.rx_bytes += peers[i].rx_bytes;
		/* Where one of two that cannot be told apart is missing, whose it was cannot be told. */
		CHECK(!is_all || (peers[i].tx_packets == out->by_slot[i] && peers[i].rx_packets == in->by_slot[i]));
	}
	CHECK(sum.tx_packets == out->packets && sum.tx_bytes == out->bytes);
	CHECK(sum.rx_packets == in->packets && sum.rx_bytes == in->bytes);
}

static void check(void)
{
	struct kernel *of = &play.kernel;
	struct dp_counters counters, right = play.verdict.counters;
	struct sums out, in;
	uint64_t errors;

	dp_read_counters(of->dp, &counters);
	match(&of->wire, &play.verdict.wire, !play.is_unordered, &out);
	match(&of->host, &play.verdict.host, !play.is_unordered, &in);
	errors = check_errors(&counters, &in);
	check_peers(&out, &in);

	/* All that must come out did, or failed on its last step, and each failure was seen. */
	CHECK(out.packets + of->seen.drop_send_full + of->seen.drop_send_error == play.verdict.wire.used);
	CHECK(in.packets + errors + counters.drop_icmp_limited + of->seen.drop_tun_full + of->seen.drop_tun_error ==
	      play.verdict.host.used);
	CHECK(counters.table_changes <= play.commits);
	counters.sleeps -= counters.sleeps > of->seen.sleeps; /* the turn that sees the end may count as one */
	right.tx_packets = out.packets;
	right.tx_bytes = out.bytes;
	right.rx_packets = in.packets;
	right.rx_bytes = in.bytes;
	right.icmp_sent = errors;
	right.drop_icmp_limited = counters.drop_icmp_limited;
	right.table_changes = counters.table_changes;
	right.underlay_full = counters.underlay_full; /* of calls, which the verdict does not see */
	right.drop_receive_socket = (uint64_t)of->socket_drops * of->dp->config.edges[0].receives;
	for (size_t word = 0; word < sizeof(counters) / 8; word++)
		((uint64_t *)&right)[word] += ((uint64_t *)&of->seen)[word];
	for (size_t word = 0; word < sizeof(counters) / 8; word++) {
		uint64_t got = ((uint64_t *)&counters)[word], wanted = ((uint64_t *)&right)[word];

		if (got != wanted)
			fprintf(stderr, "counter %zu: %llu, right is %llu\n", word, (unsigned long long)got, (unsigned long long)wanted);
		CHECK(got == wanted);
	}
}

void live(const uint8_t *input, size_t size)
{
	run(input, size);
	check();
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	kernel = &play.kernel;
	check_fixed();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 5)
		return 0;
	live(data, size);
	return 0;
}
