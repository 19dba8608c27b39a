/* SPDX-License-Identifier: Apache-2.0 */
/* A forwarder's life: it is made whole, or not at all, and freed. What it does in between is in worker.c, what it is asked in control.c.
 *
 * This is the control side: it may allocate, and never touches a packet.
 */
#include "dataplane.h"

#include <errno.h>
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
	dp->retired = calloc(threads_of(dp) + 2, sizeof(struct fib *));
	if (!dp->uncut || !dp->slots || !dp->retired)
		return -ENOMEM;
	error = fib_build(dp->slots, 0, 0, &empty);
	if (error)
		return error;
	atomic_store(&dp->table, empty);
	dp->offloads = tun_probe(config->edges[0].tun_fds[0], config->vnet_hdr, config->offloads);
	dp->offloads = underlay_probe(config, dp->offloads);
	dp->offloads = tunnel_probe(dp, dp->offloads);
	for (uint32_t i = 0; i < threads_of(dp); i++) {
		dp->worker[i] = new_worker(dp, i);
		if (!dp->worker[i])
			return -ENOMEM;
		atomic_store(&dp->worker[i]->table, empty);
		error = bulk_watch(dp->worker[i]);
		if (error)
			return error;
	}
	for (uint32_t i = 0; i < threads_of(dp); i++)
		dp->worker[i]->beside = dp->worker[(i + config->workers) % threads_of(dp)];
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
	for (uint32_t i = 0; i < threads_of(dp); i++)
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
