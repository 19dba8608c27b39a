/* SPDX-License-Identifier: Apache-2.0 */
/* The boundary's other half: making and freeing a forwarder, staging peers, publishing tables, reading counters.
 *
 * All of it is the control side: it may lock and allocate, and never touches a packet.
 */
#include "dataplane.h"

#include <errno.h>
#include <linux/sock_diag.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "edges/tun.h"
#include "edges/tunnel.h"
#include "edges/underlay.h"
#include "run/bulk.h"

/* A TUN's MTU is at least 68 (RFC 791); udp and vxlan of an IPv6 overlay want 1280, which is the caller's business. */
enum { mtu_min = 68 };

static int check_config(const struct dp_config *config)
{
	bool vxlan = config->backend == DP_BACKEND_VXLAN;

	if (config->backend != DP_BACKEND_UDP && !vxlan)
		return -EINVAL;
	if (config->workers < 1 || config->workers > DP_MAX_WORKERS || config->sources < 1 || config->sources > DP_MAX_SOURCES)
		return -EINVAL;
	if (config->mtu < mtu_min || config->mtu > packet_max || config->port < 1 || config->port > 65535)
		return -EINVAL;
	if (config->underlay_family != 4 && config->underlay_family != 6)
		return -EINVAL;
	if (vxlan && config->vni >= 1u << 24)
		return -EINVAL;
	for (uint32_t i = 0; i < config->workers; i++) {
		const struct dp_edges *edges = &config->edges[i];

		if (edges->tuns < 1 || edges->tuns > DP_MAX_QUEUES || edges->receives < 1 || edges->receives > DP_MAX_QUEUES)
			return -EINVAL;
	}
	return 0;
}

/* Each worker has a bulk worker beside it. */
static uint32_t threads(const struct dp *dp)
{
	return 2 * dp->config.workers;
}

static void free_worker(struct worker *w)
{
	if (!w)
		return;
	free(w->send.arena);
	free(w->receive.buffers);
	free(w->receive.scratch);
	free(w->peers);
	if (w->wait_fd >= 0)
		close(w->wait_fd);
	free(w);
}

static struct worker *new_worker(struct dp *dp, uint32_t index)
{
	struct worker *w = aligned_alloc(_Alignof(struct worker), sizeof(*w));

	if (!w)
		return NULL;
	memset(w, 0, sizeof(*w));
	w->dp = dp;
	w->index = index % dp->config.workers;
	w->is_bulk = index >= dp->config.workers;
	w->edges = &dp->config.edges[w->index];
	w->wait_fd = -1;
	w->offloads = dp->offloads;
	w->receive.parts = 1; /* as coalesce_flush leaves it */
	w->send.arena = aligned_alloc(cache_line, arena_bytes);
	w->receive.buffers = malloc((size_t)messages_max * receive_buffer);
	w->receive.scratch = malloc(packet_max + 1);
	w->peers = calloc(DP_MAX_PEERS, sizeof(*w->peers)); /* pages that no peer needs are never touched */
	if (!w->send.arena || !w->receive.buffers || !w->receive.scratch || !w->peers) {
		free_worker(w);
		return NULL;
	}
	underlay_init(w);
	return w;
}

static int init(struct dp *dp)
{
	const struct dp_config *config = &dp->config;
	struct fib *empty;
	int error;

	if (config->backend == DP_BACKEND_VXLAN)
		encap_vxlan_init(&dp->encap, config->vni, config->vtep_mac);
	else
		encap_udp_init(&dp->encap);
	dp->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (dp->stop_fd < 0)
		return -errno;
	dp->uncut = calloc(DP_MAX_PEERS, sizeof(*dp->uncut));
	dp->slots = calloc(DP_MAX_PEERS, sizeof(*dp->slots));
	/* Every worker can hold back one table, and there is the newest. */
	dp->retired = calloc(threads(dp) + 2, sizeof(struct fib *));
	if (!dp->uncut || !dp->slots || !dp->retired)
		return -ENOMEM;
	error = fib_build(dp->slots, 0, 0, &empty);
	if (error)
		return error;
	atomic_store(&dp->table, empty);
	dp->offloads = tun_probe(config->edges[0].tun_fds[0], config->vnet_hdr, config->offloads);
	dp->offloads = underlay_probe(config, dp->offloads);
	dp->offloads = tunnel_probe(dp, dp->offloads);
	for (uint32_t i = 0; i < threads(dp); i++) {
		dp->worker[i] = new_worker(dp, i);
		if (!dp->worker[i])
			return -ENOMEM;
		atomic_store(&dp->worker[i]->table, empty);
		error = bulk_watch(dp->worker[i]);
		if (error)
			return error;
	}
	for (uint32_t i = 0; i < threads(dp); i++)
		dp->worker[i]->beside = dp->worker[(i + config->workers) % threads(dp)];
	return 0;
}

int dp_new(const struct dp_config *config, struct dp **out)
{
	struct dp *dp;
	int error = check_config(config);

	if (error)
		return error;
	dp = calloc(1, sizeof(*dp));
	if (!dp)
		return -ENOMEM;
	dp->config = *config;
	dp->stop_fd = -1;
	pthread_mutex_init(&dp->control, NULL);
	error = init(dp);
	if (error) {
		dp_free(dp);
		return error;
	}
	*out = dp;
	return 0;
}

void dp_free(struct dp *dp)
{
	if (!dp)
		return;
	for (uint32_t i = 0; i < threads(dp); i++)
		free_worker(dp->worker[i]);
	for (uint32_t i = 0; i < dp->retired_count; i++)
		fib_free(dp->retired[i]);
	fib_free((struct fib *)(uintptr_t)atomic_load(&dp->table));
	free(dp->retired);
	free(dp->slots);
	free(dp->uncut);
	if (dp->stop_fd >= 0)
		close(dp->stop_fd);
	pthread_mutex_destroy(&dp->control);
	free(dp);
}

uint32_t dp_offloads(const struct dp *dp)
{
	uint32_t offloads = dp->offloads;

	for (uint32_t i = 0; i < threads(dp); i++)
		offloads &= atomic_load(&dp->worker[i]->offloads);
	return offloads;
}

int dp_forbid(struct dp *dp, uint32_t offloads)
{
	for (uint32_t i = 0; i < threads(dp); i++)
		atomic_fetch_and(&dp->worker[i]->offloads, ~offloads);
	return 0;
}

int dp_stop(struct dp *dp)
{
	uint64_t one = 1;

	atomic_store_explicit(&dp->stopping, true, memory_order_release);
	/* Never read, so every worker finds it readable. */
	return write(dp->stop_fd, &one, sizeof(one)) == sizeof(one) ? 0 : -errno;
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

static bool is_in_use(const struct dp *dp, const struct fib *fib)
{
	for (uint32_t i = 0; i < threads(dp); i++)
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

int dp_read_counters(const struct dp *dp, struct dp_counters *out)
{
	uint64_t *sum = (uint64_t *)out;

	_Static_assert(sizeof(*out) % sizeof(*sum) == 0, "counters are 64-bit words and nothing else");
	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < threads(dp); i++) {
		const uint64_t *from = (const uint64_t *)&dp->worker[i]->counters;

		for (size_t word = 0; word < sizeof(*out) / sizeof(*sum); word++)
			sum[word] += counter_read(&from[word]);
	}
	out->drop_receive_socket = socket_drops(dp);
	return 0;
}

int dp_read_peer_counters(const struct dp *dp, uint32_t first, uint32_t peers, struct dp_peer_counters *out)
{
	if (first > DP_MAX_PEERS || peers > DP_MAX_PEERS - first)
		return -EINVAL;
	memset(out, 0, peers * sizeof(*out));
	for (uint32_t i = 0; i < threads(dp); i++) {
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
