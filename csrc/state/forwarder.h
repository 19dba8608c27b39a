/* SPDX-License-Identifier: Apache-2.0 */
/* What the stages share inside the core: the forwarder, and one worker with its two batches.
 *
 * Everything hangs off struct dp; there are no globals. What must stay true:
 *   - a worker's memory is written by that worker alone; the exceptions are dp.table (published by dp_commit), dp.stopping, and dp.uncut,
 *     which all workers share (uncut.h), and worker.watched, whose entries go to and fro with the queues (run/bulk.h);
 *   - worker.table is a hazard pointer: dp_commit frees no table that some worker still shows there;
 *   - all buffers are made in dp_new: nothing is allocated while packets flow.
 */
#ifndef FORWARDER_H
#define FORWARDER_H

#include <linux/virtio_net.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "dataplane.h"
#include "encap/encap.h"
#include "packet/icmp.h"
#include "packet/ip.h"
#include "state/counters.h"
#include "table/fib.h"

enum {
	burst_packets = 64,          /* TUN reads before the other direction gets its turn */
	burst_datagrams = 256,       /* and datagrams made of them */
	burst_bytes = 128 * 1024,    /* and bytes: what is queued should still be in the cache when it is sent */
	train_segments = 64,         /* UDP_SEGMENT takes 64 up to Linux 6.8, 128 since */
	train_bytes = 65000,         /* a train is one datagram to the kernel: 65,507 bytes over IPv4 */
	trains_max = 128,
	datagrams_max = 512,
	messages_max = 16,           /* datagram trains taken by one recvmmsg */
	runs_max = 256,              /* packets or joined packets waiting for their TUN write */
	parts_max = 1000,        /* a run is one writev with two iovecs more: at most 1,024 (UIO_MAXIOV) */
	flow_buckets = 64,
	cache_line = 64,
	receive_buffer = packet_max + 1, /* one more than any datagram has: longer ones show as truncated */
	/* Room for a burst, one more super-packet, and the segments of it with their headers. A multiple of cache_line. */
	arena_bytes = burst_bytes + 4 * (packet_max + 1),
};

/* The send batch: datagrams lie in the arena, trains chain those that one sendmsg with UDP_SEGMENT can carry. */
struct datagram {
	uint8_t *data;
	uint32_t len;
	uint32_t next; /* in its train; 0 ends, as a train's first datagram is never a next */
};

struct train {
	const struct fib_peer *peer;
	uint32_t source;    /* index of the socket */
	uint32_t segment;   /* bytes of every datagram but the last */
	uint32_t segments;
	uint32_t bytes;
	uint32_t first;
	uint32_t last;
	uint8_t ecn;
	bool open;          /* takes more */
};

union send_control {
	struct cmsghdr align;
	uint8_t bytes[CMSG_SPACE(sizeof(uint16_t)) + CMSG_SPACE(sizeof(int))];
};

struct send_batch {
	uint8_t *arena;
	uint32_t used;
	uint32_t datagrams;
	uint32_t trains;
	struct datagram datagram[datagrams_max];
	struct train train[trains_max];
	uint16_t by_flow[flow_buckets];
	struct mmsghdr message[trains_max];
	uint16_t message_train[trains_max];
	struct iovec iov[datagrams_max];
	union send_control control[trains_max];
};

/* The receive batch: payloads stay in the receive buffers, runs chain those that one TUN write can carry. */
struct part {
	uint8_t *data;
	uint32_t len;
	uint32_t next; /* 0 ends */
};

struct run {
	const struct fib_peer *peer; /* of all its packets */
	struct ip ip;          /* the first packet, with its headers */
	uint32_t headers;      /* bytes of IP and transport header; 0: the packet is not to be joined or cut */
	uint32_t gso_size;     /* payload of every packet but the last */
	uint32_t payload;
	uint32_t packets;      /* that it is on the wire */
	uint32_t next_sequence;
	uint32_t first;        /* parts behind the first packet */
	uint32_t last;
	bool partial;          /* the transport checksum is still to be finished */
	bool open;
};

union receive_control {
	struct cmsghdr align;
	uint8_t bytes[CMSG_SPACE(sizeof(int)) * 2];
};

struct receive_batch {
	uint8_t *buffers;
	uint32_t used; /* messages that the kernel has written into: only they are made ready again */
	struct mmsghdr message[messages_max];
	struct iovec message_iov[messages_max];
	struct sockaddr_in6 from[messages_max];
	union receive_control control[messages_max];
	uint32_t runs;
	uint32_t parts;
	struct run run[runs_max];
	struct part part[parts_max];
	uint16_t by_flow[flow_buckets];
	struct iovec iov[parts_max + 2];
	uint8_t *scratch; /* one wire-size packet being written, an ICMP error being made */
};

/* What a worker knows of a queue or socket that it serves; see run/bulk.h. */
struct watched {
	uint32_t turn;      /* of its last burst */
	uint32_t in_a_row;  /* bursts that speak for the other worker of the pair */
	bool was_served;
};

struct worker {
	struct dp *dp;
	const struct dp_edges *edges;    /* of the pair */
	struct worker *beside;           /* the other of the pair */
	uint32_t index;                  /* of the pair */
	bool is_bulk;
	int wait_fd;                     /* epoll instance */
	uint32_t turns;                  /* with something to do */
	struct watched watched[2 * DP_MAX_QUEUES];
	_Atomic(uint32_t) offloads;      /* dp.offloads as far as it works here and nobody took it back (dp_forbid) */
	_Atomic(const struct fib *) table;
	struct dp_counters counters;
	struct dp_peer_counters *peers;  /* by slot */
	uint32_t full_sources;           /* bits of the sockets whose send buffer was full at some time */
	uint16_t outer_id;               /* IPv4 ID of the next datagram that we make the outer header of */
	double icmp_tokens[icmp_errors];
	uint64_t icmp_refilled_ns[icmp_errors];
	struct send_batch send;
	struct receive_batch receive;
} __attribute__((aligned(cache_line)));

/* See uncut.h; the fields behind the word describe the probe that is in it. */
struct uncut {
	_Atomic(uint64_t) word;
	_Atomic(uint32_t) since_ms;
	_Atomic(uint32_t) flow;
	_Atomic(uint32_t) ports;
	_Atomic(uint32_t) start; /* TCP sequence numbers */
	_Atomic(uint32_t) end;
	_Atomic(uint32_t) is_second; /* the one before was lost */
};

struct dp {
	struct dp_config config;
	struct encap encap;
	uint32_t offloads;
	union underlay_address source[DP_MAX_SOURCES]; /* what source_fds are bound to; for DP_OFFLOAD_TUNNEL_GSO */
	int stop_fd;
	atomic_bool stopping;
	_Atomic(const struct fib *) table;
	struct uncut *uncut;       /* by slot */
	_Atomic(uint32_t) probes;  /* slots that are probing */
	/* control side, under the mutex */
	pthread_mutex_t control;
	struct dp_peer *slots;
	uint32_t slots_used;
	struct fib **retired;
	uint32_t retired_count;
	struct worker *worker[2 * DP_MAX_WORKERS]; /* the bulk workers behind the others */
};

/* Each worker has a bulk worker beside it. */
static inline uint32_t threads_of(const struct dp *dp)
{
	return 2 * dp->config.workers;
}

#endif
