/* SPDX-License-Identifier: Apache-2.0 */
/* A kernel for one forwarder, as far as the core can see one: a TUN queue, a receive socket, source sockets, a TAP, a clock.
 *
 * The core's system calls on the descriptors below come here (the linker's --wrap); all others go through. Nothing in here depends
 * on anything but what it was told, so that an input always does the same. What must stay true: what leaves is recorded packet by
 * packet, after the cutting that a kernel would do, so records of a forwarder that uses offloads and of one that does not compare.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <linux/virtio_net.h>

#include "forwarder.h"

enum {
	kernel_fd = 100000,
	kernel_tun_fd = kernel_fd,
	kernel_receive_fd,
	kernel_tunnel_fd,
	kernel_stop_fd,
	kernel_wait_fd,
	kernel_source_fd, /* and those behind it */
	kernel_source_port = 40000,
};

enum call {
	call_sendmmsg,
	call_sendmsg,
	call_tun_write,
	call_tunnel_write,
	call_tun_read,
	call_recvmmsg,
	call_wait,
	calls,
};

enum {
	kernel_refuses_names = 64,
	kernel_refuses_eventfd = 128,
	kernel_refuses_epoll = 256,
	kernel_refuses_waiting = 512, /* for one more descriptor */
};

/* The call fails times times, after it went well skip times (sendmmsg: messages). */
struct fault {
	uint32_t skip;
	uint32_t times;
	int error; /* 0: a read that is too short */
};

/* What a read of the TUN, or a datagram train of the socket, gives. */
struct item {
	struct virtio_net_hdr offload;
	union underlay_address from;
	const uint8_t *data;
	uint32_t len;
	int segment; /* as UDP_GRO reports it; 0: not at all */
	uint8_t ecn;
	bool truncated;
};

enum { items_max = 8192, records_max = 32768 };

struct queue {
	uint32_t used;
	uint32_t taken;
	struct item item[items_max];
};

/* One packet as it left: packets of one flow must stay in their order. */
struct record {
	uint64_t flow;
	uint64_t content;
	bool is_error; /* ICMP that we made */
};

struct records {
	uint32_t used;
	struct record record[records_max];
};

struct kernel {
	struct dp *dp;
	bool is_ipv4; /* the underlay */
	struct queue tun;
	struct queue underlay;
	struct records wire;
	struct records host;
	uint64_t refused_packets; /* in writes to the TUN that failed */
	struct fault fault[calls];
	uint32_t refused; /* bits of enum dp_offload and of the two below: what it says no to when asked */
	bool refuses_randomness;
	uint64_t clock_ns;
	uint32_t tick_ns;         /* how far the clock goes by itself whenever it is read */
	uint32_t interrupt_after; /* calls until interrupt, in the middle of one; 0: never */
	uint32_t fatal_faults;    /* that end dp_run */
	void (*interrupt)(struct kernel *kernel);
	/* What happens while the worker sleeps; false: nothing more. */
	bool (*next)(struct kernel *kernel);
	/* A super-packet left by the TAP. */
	void (*on_whole)(struct kernel *kernel, const struct ip *super);
};

/* The one whose forwarder runs. */
extern struct kernel *kernel;

/* From now on the allocation after this many fails, once; 0: none. */
extern uint32_t kernel_allocations;

#define REQUIRE(condition)                                                                        \
	do {                                                                                      \
		if (!(condition)) {                                                               \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                                  \
		}                                                                                 \
	} while (0)

#endif
