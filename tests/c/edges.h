/* SPDX-License-Identifier: Apache-2.0 */
/* A forwarder (udp) whose TUN is a socket pair, with a peer: what receive_train is given comes out at the test's end. */
#ifndef EDGES_H
#define EDGES_H

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "state/forwarder.h"

struct edges {
	struct dp *dp;
	struct worker *w;
	const struct fib *fib;
	int tun;  /* the test's end */
	int fds[3];
	struct sockaddr_in peer;
};

static inline struct edges open_edges(uint32_t offloads)
{
	struct edges e = {.peer = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0xc0000202)}};
	struct dp_config config = {
		.backend = DP_BACKEND_UDP, .offloads = offloads, .vnet_hdr = 1, .port = 8285, .mtu = 1472, .underlay_family = 4,
		.tunnel4 = {4, {10, 5, 1, 0}}, .workers = 1, .sources = 1, .tunnel_fd = -1,
	};
	struct dp_peer own = {.prefix = {4, {10, 5, 1, 0}}, .prefix_len = 24, .local = 1};
	struct dp_peer own6 = {.prefix = {6, {0xfd, 1}}, .prefix_len = 64, .local = 1};
	struct dp_peer peer = {.prefix = {4, {10, 5, 2, 0}}, .prefix_len = 24, .next_hop = {4, {192, 0, 2, 2}}};
	struct dp_peer peer6 = {.prefix = {6, {0xfd, 2}}, .prefix_len = 64, .next_hop = {4, {192, 0, 2, 2}}};
	int pair[2], size = 8 << 20;

	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) == 0);
	CHECK(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) == 0 ||
	      setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) == 0);
	e.tun = pair[1];
	e.fds[0] = pair[0];
	e.fds[1] = socket(AF_INET, SOCK_DGRAM, 0);
	config.edges[0] = (struct dp_edges){.tuns = 1, .receives = 1, .tun_fds = {pair[0]}, .receive_fds = {e.fds[1]}};
	config.source_fds[0] = e.fds[1];
	CHECK(dp_new(&config, &e.dp) == 0);
	CHECK(dp_peer_set(e.dp, 0, &own) == 0 && dp_peer_set(e.dp, 1, &peer) == 0);
	CHECK(dp_peer_set(e.dp, 2, &own6) == 0 && dp_peer_set(e.dp, 3, &peer6) == 0);
	CHECK(dp_commit(e.dp) == 0);
	e.w = e.dp->worker[0];
	e.fib = e.dp->table;
	return e;
}

static inline void close_edges(struct edges *e)
{
	dp_free(e->dp);
	close(e->tun);
	close(e->fds[0]);
	close(e->fds[1]);
}

#endif
