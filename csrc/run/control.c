/* SPDX-License-Identifier: Apache-2.0 */
/* What the user asks of a forwarder while it runs: offloads taken back, peers staged and read, tables published, counters, the end.
 *
 * All of it is the control side: it may lock and allocate, and never touches a packet.
 */
#include "dataplane.h"

#include <errno.h>
#include <linux/sock_diag.h>
#include <unistd.h>

#include "edges/tunnel.h"
#include "state/forwarder.h"

uint32_t dp_offloads(const struct dp *dp)
{
	uint32_t offloads = dp->offloads;

	for (uint32_t i = 0; i < threads_of(dp); i++)
		offloads &= atomic_load(&dp->worker[i]->offloads);
	return offloads;
}

int dp_tunnel(struct dp *dp, int fd)
{
	if (dp->config.tunnel_fd >= 0)
		return -EBUSY;
	dp->config.tunnel_fd = fd;
	dp->offloads = tunnel_probe(dp, dp->offloads | (dp->config.offloads & DP_OFFLOAD_TUNNEL_GSO));
	/* A worker that sees the bit sees the descriptor, too. */
	for (uint32_t i = 0; i < threads_of(dp); i++)
		atomic_fetch_or(&dp->worker[i]->offloads, dp->offloads & DP_OFFLOAD_TUNNEL_GSO);
	return 0;
}

int dp_forbid(struct dp *dp, uint32_t offloads)
{
	for (uint32_t i = 0; i < threads_of(dp); i++)
		atomic_fetch_and(&dp->worker[i]->offloads, ~offloads);
	return 0;
}

int dp_stop(struct dp *dp)
{
	uint64_t one = 1;

	atomic_store_explicit(&dp->stopping, true, memory_order_release);
	/* Not read by a worker, so every one finds it readable. */
	return write(dp->stop_fd, &one, sizeof(one)) == sizeof(one) ? 0 : -errno;
}

int dp_resume(struct dp *dp)
{
	uint64_t stops;

	atomic_store_explicit(&dp->stopping, false, memory_order_release);
	return read(dp->stop_fd, &stops, sizeof(stops)) == sizeof(stops) ? 0 : -errno;
}

int dp_peer_set(struct dp *dp, uint32_t slot, const struct dp_peer *peer)
{
	uint32_t bits = peer->prefix.family == 4 ? 32 : 128;

	if (slot >= DP_MAX_PEERS || (peer->prefix.family != 4 && peer->prefix.family != 6) || peer->prefix_len > bits)
		return -EINVAL;
	if (!peer->local && peer->next_hop.family != dp->config.underlay_family)
		return -EAFNOSUPPORT;
	pthread_mutex_lock(&dp->control);
	dp->slots[slot] = *peer;
	if (dp->slots_used <= slot)
		dp->slots_used = slot + 1;
	pthread_mutex_unlock(&dp->control);
	return 0;
}

int dp_peer_clear(struct dp *dp, uint32_t slot)
{
	if (slot >= DP_MAX_PEERS)
		return -EINVAL;
	pthread_mutex_lock(&dp->control);
	dp->slots[slot].prefix.family = 0;
	pthread_mutex_unlock(&dp->control);
	return 0;
}

int dp_read_peers(const struct dp *dp, uint32_t first, uint32_t peers, struct dp_peer *out)
{
	struct dp *locked = (struct dp *)(uintptr_t)dp;

	if (first > DP_MAX_PEERS || peers > DP_MAX_PEERS - first)
		return -EINVAL;
	pthread_mutex_lock(&locked->control);
	memcpy(out, dp->slots + first, peers * sizeof(*out));
	pthread_mutex_unlock(&locked->control);
	return 0;
}

static bool is_in_use(const struct dp *dp, const struct fib *fib)
{
	for (uint32_t i = 0; i < threads_of(dp); i++)
		if (atomic_load(&dp->worker[i]->table) == fib)
			return true;
	return false;
}

/* Free what no worker shows any more; at most one table for each worker remains. */
static void retire(struct dp *dp, struct fib *old)
{
	uint32_t kept = 0;

	dp->retired[dp->retired_count++] = old;
	for (uint32_t i = 0; i < dp->retired_count; i++) {
		if (is_in_use(dp, dp->retired[i]))
			dp->retired[kept++] = dp->retired[i];
		else
			fib_free(dp->retired[i]);
	}
	dp->retired_count = kept;
}

int dp_commit(struct dp *dp)
{
	struct fib *fib;
	int error;

	pthread_mutex_lock(&dp->control);
	error = fib_build(dp->slots, dp->slots_used, (uint16_t)dp->config.port, &fib);
	if (!error)
		retire(dp, (struct fib *)(uintptr_t)atomic_exchange(&dp->table, fib));
	pthread_mutex_unlock(&dp->control);
	return error;
}

/* What the kernel dropped at the sockets is known to them alone (Linux net/core/sock.c, sk_get_meminfo). */
static uint64_t socket_drops(const struct dp *dp)
{
	uint64_t drops = 0;

	for (uint32_t i = 0; i < dp->config.workers; i++) {
		const struct dp_edges *edges = &dp->config.edges[i];

		for (uint32_t j = 0; j < edges->receives; j++) {
			uint32_t info[SK_MEMINFO_VARS];
			socklen_t len = sizeof(info);

			if (getsockopt(edges->receive_fds[j], SOL_SOCKET, SO_MEMINFO, info, &len) == 0 && len == sizeof(info))
				drops += info[SK_MEMINFO_DROPS];
		}
	}
	return drops;
}

int dp_count_on(struct dp *dp, const struct dp_counters *from, uint32_t peers, const struct dp_peer_counters *of_peers)
{
	if (peers > DP_MAX_PEERS)
		return -EINVAL;
	dp->worker[0]->counters = *from;
	memcpy(dp->worker[0]->peers, of_peers, peers * sizeof(*of_peers));
	return 0;
}

int dp_read_counters(const struct dp *dp, struct dp_counters *out)
{
	uint64_t *sum = (uint64_t *)out;

	_Static_assert(sizeof(*out) % sizeof(*sum) == 0, "counters are 64-bit words and nothing else");
	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < threads_of(dp); i++) {
		const uint64_t *from = (const uint64_t *)&dp->worker[i]->counters;

		for (size_t word = 0; word < sizeof(*out) / sizeof(*sum); word++)
			sum[word] += counter_read(&from[word]);
	}
	out->drop_receive_socket += socket_drops(dp);
	return 0;
}

int dp_read_peer_counters(const struct dp *dp, uint32_t first, uint32_t peers, struct dp_peer_counters *out)
{
	if (first > DP_MAX_PEERS || peers > DP_MAX_PEERS - first)
		return -EINVAL;
	memset(out, 0, peers * sizeof(*out));
	for (uint32_t i = 0; i < threads_of(dp); i++) {
		const struct dp_peer_counters *from = dp->worker[i]->peers + first;

		for (uint32_t j = 0; j < peers; j++) {
			out[j].tx_packets += counter_read(&from[j].tx_packets);
			out[j].tx_bytes += counter_read(&from[j].tx_bytes);
			out[j].rx_packets += counter_read(&from[j].rx_packets);
			out[j].rx_bytes += counter_read(&from[j].rx_bytes);
		}
	}
	return 0;
}
