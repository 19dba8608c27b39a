/* SPDX-License-Identifier: Apache-2.0 */
/* What one packet costs the whole send or receive path as a cluster grows; run by dataplane/lab/bench/growth.py.
 *
 *     growth send|receive PEERS BUSY FLOWS BYTES|mix load|core|kernel PACKETS [single] [one] [churn]
 *
 * The real core (vxlan, 16 source sockets) with a table of PEERS peers. Packets go to (come from) BUSY of them, which are spread
 * over the table, at random and in FLOWS flows each, one TUN read or one datagram a packet.
 *
 * In the figure: send_burst or receive_train with coalesce_flush, whole, and the load. The load is the same for all cases of one
 * direction and size: reading the TUN is a copy out of a ring of 1 MB, a received datagram is put together where recvmmsg
 * would have left it. Writing the TUN costs nothing (--wrap at link time). What EDGE adds:
 *     load     nothing: not even the core; what every other figure contains
 *     core     our own code, where sendmmsg costs nothing either
 *     kernel   send only: sendmmsg for real, over loopback to a socket that drops all before it is queued
 * Not in the figure: the TUN driver, recvmmsg, a device. single: without UDP_SEGMENT, so that every packet is a message of its
 * own however the peers are drawn. one: all peers share an underlay address, so that the kernel (its IP IDs, the sink's hash) does
 * the same for all. churn: another thread publishes a new table 100 times a second meanwhile.
 *
 * The time is the thread's own processor time: whoever preempts it does not count, but the kernel's work for it does. Prints
 * nanoseconds per packet, packets lost, and tables published per second of wall time (0 without churn).
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

#include "edges/tun.h"
#include "packet/checksum.h"
#include "receive/coalesce.h"
#include "receive/receive.h"
#include "send/send.h"
#include "state/forwarder.h"

enum {
	ring_packets = 16384,
	head_bytes = 64,     /* the smallest packet; what packets differ in lies in there */
	packet_bytes = 1400, /* the largest */
	port = 8472,
	mtu = 1450,
	sources = 16,
	batch_datagrams = 64,
	buffer_bytes = 1536, /* of a received datagram */
	publish_ns = 10000000,
};

struct ring_packet {
	uint8_t head[head_bytes];
	uint32_t peer;
	uint32_t len;
};

static struct {
	uint8_t payload[packet_bytes]; /* of all packets, behind the head: the ring stays small and does not hide what the core does */
	struct ring_packet packet[ring_packets];
	uint32_t next;
	uint32_t left;
	bool discard;
	atomic_bool ended;
	uint64_t written;
	uint64_t published;
} load;

int __wrap_tun_read(struct worker *w, int fd, uint8_t *at, struct virtio_net_hdr *offload);
bool __wrap_tun_write(struct worker *w, const struct virtio_net_hdr *offload, struct iovec *iov, uint32_t parts, uint32_t packets);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
int __real_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);

static const struct ring_packet *next_packet(uint8_t *at)
{
	const struct ring_packet *packet = &load.packet[load.next];

	load.left--;
	load.next = (load.next + 1) % ring_packets;
	memcpy(at, packet->head, head_bytes);
	memcpy(at + head_bytes, load.payload, packet->len - head_bytes);
	return packet;
}

int __wrap_tun_read(struct worker *w, int fd, uint8_t *at, struct virtio_net_hdr *offload)
{
	const struct ring_packet *packet;

	(void)fd;
	if (!load.left)
		return 0;
	packet = next_packet(at);
	memset(offload, 0, sizeof(*offload));
	count(&w->counters.tun_reads, 1);
	return (int)packet->len;
}

bool __wrap_tun_write(struct worker *w, const struct virtio_net_hdr *offload, struct iovec *iov, uint32_t parts, uint32_t packets)
{
	(void)w, (void)offload, (void)iov, (void)parts;
	load.written += packets;
	return true;
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

static void make_packet(struct ring_packet *packet, bool outward, uint32_t peer, uint32_t flow, uint32_t size)
{
	uint8_t at[packet_bytes] = {0};
	struct ip ip;

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
	memcpy(packet->head, at, head_bytes);
	packet->peer = peer;
	packet->len = size;
}

/* Seven small, four middling, one large: the usual simple model of Internet traffic. */
static uint32_t mixed_size(void)
{
	uint32_t draw = (uint32_t)random() % 12;

	return draw < 7 ? 64 : draw < 11 ? 576 : 1400;
}

static void prepare(bool outward, uint32_t peers, uint32_t busy, uint32_t flows, const char *size)
{
	srandom(1);
	for (uint32_t i = 0; i < ring_packets; i++) {
		/* The busy ones are spread over the table; peer 0 is ourselves. */
		uint32_t chosen = (uint32_t)random() % busy;
		uint32_t peer = 1 + (uint32_t)((uint64_t)chosen * (peers - 1) / busy);
		uint32_t bytes = strcmp(size, "mix") == 0 ? mixed_size() : (uint32_t)atoi(size);

		make_packet(&load.packet[i], outward, peer, (uint32_t)random() % flows, bytes);
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

/* Without DF, as the daemon's (dataplane/host/edges/sockets.py). */
static int open_source(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), how = IP_PMTUDISC_DONT;

	if (fd < 0 || setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &how, sizeof(how)) < 0) {
		perror("growth: cannot open a source");
		exit(2);
	}
	return fd;
}

static struct dp *make_forwarder(uint32_t peers, uint32_t offloads, bool one_address)
{
	struct dp_config config = {
		.backend = DP_BACKEND_VXLAN, .vni = 1, .offloads = offloads, .vnet_hdr = 1, .port = port, .mtu = mtu,
		.underlay_family = 4, .tunnel4 = {4, {10, 0, 0, 0}}, .workers = 1, .sources = sources, .tunnel_fd = -1,
	};
	struct dp *dp;

	config.edges[0] = (struct dp_edges){.tuns = 1, .receives = 1, .tun_fds = {-1}};
	config.edges[0].receive_fds[0] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	for (uint32_t i = 0; i < sources; i++)
		config.source_fds[i] = open_source();
	set_mac(config.vtep_mac, 0);
	if (dp_new(&config, &dp) != 0)
		exit(2);
	for (uint32_t i = 0; i < peers; i++) {
		struct dp_peer peer = {.prefix = {.family = 4}, .prefix_len = 24, .local = i == 0, .next_hop = {.family = 4}};

		set_address(peer.prefix.bytes, 10, i, 0);
		set_address(peer.next_hop.bytes, 127, one_address ? 1 : i, 1);
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
	struct timespec next;

	clock_gettime(CLOCK_MONOTONIC, &next);
	while (!atomic_load(&load.ended)) {
		if (dp_commit(arg) != 0)
			exit(2);
		load.published++;
		next.tv_nsec += publish_ns;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
	return NULL;
}

/* As a worker's turn does (run/worker.c, take_table). */
static const struct fib *newest_table(struct worker *w)
{
	const struct fib *table = atomic_load(&w->dp->table);

	while (atomic_load(&w->table) != table) {
		atomic_store(&w->table, table);
		table = atomic_load(&w->dp->table);
	}
	return table;
}

static void read_all(struct worker *w)
{
	struct virtio_net_hdr offload;

	while (load.left) {
		uint32_t used = 0;

		for (uint32_t i = 0; i < burst_packets; i++)
			used += vxlan_overhead + (uint32_t)tun_read(w, 0, w->send.arena + used + vxlan_overhead, &offload);
	}
}

static void send_all(struct worker *w)
{
	bool is_full;

	while (load.left)
		send_burst(w, newest_table(w), 0, &is_full);
}

/* VNI 1, to our VTEP, from the one that is filled in. */
static const uint8_t vxlan_header_bytes[vxlan_overhead] = {8, 0, 0, 0, 0, 0, 1, 0, 2, [20] = 8};

/* Datagrams may be changed where they lie, so each is copied fresh, as recvmmsg would. Returns its length. */
static uint32_t make_datagram(uint8_t *at, struct sockaddr_in *from)
{
	const struct ring_packet *packet = next_packet(at + vxlan_overhead);

	memcpy(at, vxlan_header_bytes, vxlan_overhead);
	set_mac(at + vxlan_header + 6, packet->peer);
	set_address((uint8_t *)&from->sin_addr, 127, packet->peer, 1);
	return vxlan_overhead + packet->len;
}

/* The batch is there before the core sees it, as after recvmmsg. */
static void receive_all(struct worker *w, bool only_load)
{
	struct sockaddr_in from[batch_datagrams];
	uint32_t len[batch_datagrams];

	for (uint32_t i = 0; i < batch_datagrams; i++)
		from[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
	while (load.left) {
		const struct fib *table = newest_table(w);

		for (uint32_t i = 0; i < batch_datagrams; i++)
			len[i] = make_datagram(w->receive.buffers + (size_t)i * buffer_bytes, &from[i]);
		if (only_load)
			continue;
		for (uint32_t i = 0; i < batch_datagrams; i++)
			receive_train(w, table, (const struct sockaddr *)&from[i], w->receive.buffers + (size_t)i * buffer_bytes, len[i], 0, 0);
		coalesce_flush(w);
	}
}

static uint64_t now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Returns the thread's own time. */
static uint64_t run(struct worker *w, bool outward, bool only_load, uint32_t packets)
{
	uint64_t start = now_ns(CLOCK_THREAD_CPUTIME_ID);

	load.left = packets;
	if (!outward)
		receive_all(w, only_load);
	else if (only_load)
		read_all(w);
	else
		send_all(w);
	return now_ns(CLOCK_THREAD_CPUTIME_ID) - start;
}

/* Peers, busy ones, flows, and bytes of a packet. */
static bool in_range(char **argv)
{
	int bytes = strcmp(argv[5], "mix") == 0 ? packet_bytes : atoi(argv[5]);

	return atoi(argv[2]) > 0 && atoi(argv[2]) < DP_MAX_PEERS && atoi(argv[3]) > 0 && atoi(argv[3]) <= atoi(argv[2]) &&
	       atoi(argv[4]) > 0 && bytes >= head_bytes && bytes <= packet_bytes && atoi(argv[7]) >= 4 * batch_datagrams;
}

int main(int argc, char **argv)
{
	bool single = false, one_address = false, churn = false;

	for (int i = 8; i < argc; i++) {
		single = single || strcmp(argv[i], "single") == 0;
		one_address = one_address || strcmp(argv[i], "one") == 0;
		churn = churn || strcmp(argv[i], "churn") == 0;
	}
	if (argc < 8 || 8 + single + one_address + churn != argc || !in_range(argv)) {
		fprintf(stderr, "usage: growth send|receive PEERS BUSY FLOWS BYTES|mix load|core|kernel PACKETS [single] [one] [churn]\n");
		return 2;
	}

	bool outward = strcmp(argv[1], "send") == 0, only_load = strcmp(argv[6], "load") == 0;
	uint32_t peers = (uint32_t)atoi(argv[2]) + 1, packets = (uint32_t)atoi(argv[7]) / batch_datagrams * batch_datagrams;
	uint32_t warm_up = packets / 4 / batch_datagrams * batch_datagrams;
	struct dp *dp = make_forwarder(peers, DP_OFFLOAD_ALL & ~(single ? (uint32_t)DP_OFFLOAD_UDP_SEGMENT : 0), one_address);
	struct worker *w = dp->worker[0];
	struct dp_counters counters;
	pthread_t publisher;

	load.discard = strcmp(argv[6], "kernel") != 0;
	prepare(outward, peers, (uint32_t)atoi(argv[3]), (uint32_t)atoi(argv[4]), argv[5]);
	if (!load.discard)
		open_sink();

	uint64_t begun = now_ns(CLOCK_MONOTONIC);

	if (churn && pthread_create(&publisher, NULL, publish_tables, dp) != 0)
		return 2;
	run(w, outward, only_load, warm_up);

	uint64_t spent = run(w, outward, only_load, packets);
	uint64_t elapsed = now_ns(CLOCK_MONOTONIC) - begun;

	atomic_store(&load.ended, true);
	if (churn)
		pthread_join(publisher, NULL);
	dp_read_counters(dp, &counters);

	uint64_t carried = outward ? counters.tx_packets - counters.drop_send_error - counters.drop_send_full : counters.rx_packets;
	uint64_t lost = only_load ? 0 : packets + warm_up - carried;

	printf("%.2f %llu %.0f\n", (double)spent / packets, (unsigned long long)lost, (double)load.published * 1e9 / (double)elapsed);
	return lost == 0 && (outward || only_load || load.written == carried) ? 0 : 1;
}
