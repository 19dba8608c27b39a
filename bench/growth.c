/* SPDX-License-Identifier: Apache-2.0 */
/* What one packet costs the whole send or receive path as a cluster grows; run by bench/growth.py.
 *
 *     growth send|receive PEERS ACTIVE FLOWS SIZE|mix core|kernel PACKETS [churn]
 *
 * The real core (vxlan, 16 source sockets) with a table of PEERS peers; packets go to ACTIVE of them, at random, in FLOWS flows each.
 * The TUN is memory: reading a packet is a copy out of a prepared ring, writing one is nothing (--wrap at link time). "core":
 * sending is nothing either, so the figure is our own code; "kernel": sendmmsg for real, to a socket on loopback that drops
 * whatever comes. Received datagrams are prepared too: the figure leaves out recvmmsg. churn: another thread publishes a table
 * 100 times a second meanwhile. Prints nanoseconds per packet, packets, packets lost.
 *
 * What must stay true: every packet is accounted for, else the exit code is 1; all cases do the same work around the core.
 */
#include <arpa/inet.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "checksum.h"
#include "coalesce.h"
#include "forwarder.h"
#include "receive.h"
#include "send.h"
#include "tun.h"

enum {
	ring_packets = 16384,
	slot_bytes = 1536,
	port = 8472,
	mtu = 1450,
	sources = 16,
	batch_datagrams = 64,
};

static struct {
	uint8_t (*ring)[slot_bytes];
	uint16_t len[ring_packets];
	uint32_t peer[ring_packets];
	uint32_t next;
	uint32_t left;
	bool discard;
	atomic_bool ended;
	uint64_t written;
} load;

int __wrap_tun_read(struct worker *w, uint8_t *at, struct virtio_net_hdr *offload);
void __wrap_tun_write(struct worker *w, const struct virtio_net_hdr *offload, struct iovec *iov, uint32_t parts, uint32_t packets);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
int __real_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);

int __wrap_tun_read(struct worker *w, uint8_t *at, struct virtio_net_hdr *offload)
{
	uint32_t index = load.next;

	if (!load.left)
		return 0;
	load.left--;
	load.next = (index + 1) % ring_packets;
	memset(offload, 0, sizeof(*offload));
	memcpy(at, load.ring[index], load.len[index]);
	count(&w->counters.tun_reads, 1);
	return load.len[index];
}

void __wrap_tun_write(struct worker *w, const struct virtio_net_hdr *offload, struct iovec *iov, uint32_t parts, uint32_t packets)
{
	(void)w, (void)offload, (void)iov, (void)parts;
	load.written += packets;
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
	return load.discard ? (int)count : __real_sendmmsg(fd, messages, count, flags);
}

/* Peer i has 10.x.y.0/24 and the underlay address 127.x.y.1, where x.y is i; peer 0 is ourselves. */
static void set_address(uint8_t *at, uint8_t first, uint32_t peer, uint8_t last)
{
	memcpy(at, (uint8_t[]){first, (uint8_t)(peer >> 8), (uint8_t)peer, last}, 4);
}

static void set_mac(uint8_t *at, uint32_t peer)
{
	memcpy(at, (uint8_t[]){2, 0, 0, 0, (uint8_t)(peer >> 8), (uint8_t)peer}, 6);
}

static void make_packet(uint32_t index, bool outward, uint32_t peer, uint32_t flow, uint32_t size)
{
	uint8_t *at = load.ring[index];
	struct ip ip;

	memset(at, 0, size);
	at[0] = 0x45;
	store16(at + 2, (uint16_t)size);
	at[8] = 64;
	at[9] = proto_udp;
	set_address(at + 12, 10, outward ? 0 : peer, 2);
	set_address(at + 16, 10, outward ? peer : 0, 2);
	checksum_store(at + 10, (uint16_t)~checksum_fold(checksum_sum(at, ipv4_header)));
	store16(at + 20, (uint16_t)(1024 + flow));
	store16(at + 22, 9);
	store16(at + 24, (uint16_t)(size - ipv4_header));
	if (ip_parse(at, size, &ip)) {
		checksum_store(at + 26, checksum_fold(ip_pseudo_sum(&ip, size - ipv4_header)));
		ip_finish_checksum(at, size, ipv4_header, 6);
	}
	load.len[index] = (uint16_t)size;
	load.peer[index] = peer;
}

/* Seven small, four middling, one large: the usual simple model of Internet traffic. */
static uint32_t mixed_size(void)
{
	uint32_t draw = (uint32_t)random() % 12;

	return draw < 7 ? 64 : draw < 11 ? 576 : 1400;
}

static void prepare(bool outward, uint32_t peers, uint32_t active, uint32_t flows, const char *size)
{
	srandom(1);
	load.ring = calloc(ring_packets, slot_bytes);
	if (!load.ring)
		exit(2);
	for (uint32_t i = 0; i < ring_packets; i++) {
		/* The active ones are spread over the table. */
		uint32_t chosen = (uint32_t)random() % active;
		uint32_t peer = 1 + (uint32_t)((uint64_t)chosen * (peers - 1) / active);
		uint32_t bytes = strcmp(size, "mix") == 0 ? mixed_size() : (uint32_t)atoi(size);

		make_packet(i, outward, peer, (uint32_t)random() % flows, bytes);
	}
}

/* A socket for all of 127.0.0.0/8 that throws away what comes before it is queued. */
static void open_sink(void)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct sock_filter nothing = {BPF_RET | BPF_K, 0, 0, 0};
	struct sock_fprog program = {1, &nothing};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0 ||
	    bind(fd, (struct sockaddr *)&any, sizeof(any)) < 0) {
		perror("growth: cannot open the sink");
		exit(2);
	}
}

static struct dp *make_forwarder(uint32_t peers)
{
	struct dp_config config = {
		.backend = DP_BACKEND_VXLAN, .vni = 1, .offloads = DP_OFFLOAD_ALL, .vnet_hdr = 1, .port = port, .mtu = mtu,
		.underlay_family = 4, .tunnel4 = {4, {10, 0, 0, 0}}, .workers = 1, .sources = sources, .tunnel_fd = -1,
	};
	struct dp *dp;

	config.edges[0] = (struct dp_edges){-1, socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
	for (uint32_t i = 0; i < sources; i++)
		config.source_fds[i] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	set_mac(config.vtep_mac, 0);
	if (dp_new(&config, &dp) != 0)
		exit(2);
	for (uint32_t i = 0; i < peers; i++) {
		struct dp_peer peer = {.prefix = {.family = 4}, .prefix_len = 24, .local = i == 0, .next_hop = {.family = 4}};

		set_address(peer.prefix.bytes, 10, i, 0);
		set_address(peer.next_hop.bytes, 127, i, 1);
		set_mac(peer.vtep_mac, i);
		if (dp_peer_set(dp, i, &peer) != 0)
			exit(2);
	}
	if (dp_commit(dp) != 0)
		exit(2);
	return dp;
}

static void *publish_tables(void *arg)
{
	struct timespec pause = {0, 10000000};

	while (!atomic_load(&load.ended)) {
		if (dp_commit(arg) != 0)
			exit(2);
		nanosleep(&pause, NULL);
	}
	return NULL;
}

/* As a worker's turn does (worker.c, take_table). */
static const struct fib *newest_table(struct worker *w)
{
	const struct fib *table = atomic_load(&w->dp->table);

	while (atomic_load(&w->table) != table) {
		atomic_store(&w->table, table);
		table = atomic_load(&w->dp->table);
	}
	return table;
}

static void send_all(struct worker *w, uint32_t packets)
{
	load.left = packets;
	while (load.left)
		send_burst(w, newest_table(w));
}

/* VNI 1, to our VTEP, from the one that is filled in. */
static const uint8_t vxlan_header_bytes[vxlan_overhead] = {8, 0, 0, 0, 0, 0, 1, 0, 2, [20] = 8};

/* Datagrams may be changed where they lie, so each is copied fresh, as recvmmsg would. */
static void receive_all(struct worker *w, uint32_t packets)
{
	struct sockaddr_in from = {.sin_family = AF_INET, .sin_port = htons(port)};

	for (uint32_t done = 0; done < packets; done += batch_datagrams) {
		const struct fib *table = newest_table(w);

		for (uint32_t i = 0; i < batch_datagrams; i++) {
			uint32_t index = (done + i) % ring_packets;
			uint8_t *data = w->receive.buffers + (size_t)i * slot_bytes;

			memcpy(data, vxlan_header_bytes, vxlan_overhead);
			set_mac(data + vxlan_header + 6, load.peer[index]);
			memcpy(data + vxlan_overhead, load.ring[index], load.len[index]);
			set_address((uint8_t *)&from.sin_addr, 127, load.peer[index], 1);
			receive_train(w, table, (const struct sockaddr *)&from, data, vxlan_overhead + load.len[index], 0, 0);
		}
		coalesce_flush(w);
	}
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int main(int argc, char **argv)
{
	if (argc < 8) {
		fprintf(stderr, "usage: growth send|receive PEERS ACTIVE FLOWS SIZE|mix core|kernel PACKETS [churn]\n");
		return 2;
	}

	bool outward = strcmp(argv[1], "send") == 0, churn = argc > 8;
	uint32_t peers = (uint32_t)atoi(argv[2]) + 1, packets = (uint32_t)atoi(argv[7]) / batch_datagrams * batch_datagrams;
	struct dp *dp = make_forwarder(peers);
	struct worker *w = dp->worker[0];
	struct dp_counters counters;
	pthread_t publisher;

	load.discard = strcmp(argv[6], "core") == 0;
	prepare(outward, peers, (uint32_t)atoi(argv[3]), (uint32_t)atoi(argv[4]), argv[5]);
	if (outward && !load.discard)
		open_sink();
	if (churn && pthread_create(&publisher, NULL, publish_tables, dp) != 0)
		return 2;

	uint64_t start = 0;

	for (int warm = 1; warm >= 0; warm--) {
		start = now_ns();
		if (outward)
			send_all(w, warm ? packets / 4 / batch_datagrams * batch_datagrams : packets);
		else
			receive_all(w, warm ? packets / 4 / batch_datagrams * batch_datagrams : packets);
	}

	uint64_t spent = now_ns() - start;

	atomic_store(&load.ended, true);
	if (churn)
		pthread_join(publisher, NULL);
	dp_read_counters(dp, &counters);

	uint64_t expected = packets + packets / 4 / batch_datagrams * batch_datagrams;
	uint64_t carried = outward ? counters.tx_packets - counters.drop_send_error - counters.drop_send_full : counters.rx_packets;

	printf("%.2f %u %llu\n", (double)spent / packets, packets, (unsigned long long)(expected - carried));
	return carried == expected && (outward || load.written == expected) ? 0 : 1;
}
