/* SPDX-License-Identifier: Apache-2.0 */
/* A kernel for one forwarder, as far as the core can see one: TUN queues, receive sockets, source sockets, a TAP, a clock.
 *
 * The core's system calls on the descriptors below come here (the linker's --wrap); all others go through. Nothing in here depends
 * on anything but what it was told, so that an input always does the same. What must stay true: what leaves is recorded packet by
 * packet, after the cutting that a kernel would do, and what each call did is counted as the core ought to count it.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <linux/virtio_net.h>

#include "state/forwarder.h"
#include "verdict/records.h"

enum { kernel_queues = 2 };

enum {
	kernel_fd = 100000,
	kernel_tun_fd = kernel_fd,
	kernel_receive_fd = kernel_tun_fd + kernel_queues,
	kernel_tunnel_fd = kernel_receive_fd + kernel_queues,
	kernel_stop_fd,
	kernel_wait_fd,
	kernel_bulk_wait_fd, /* of the worker that no input here is long enough for (tests/core/test_bulk.py) */
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

/* Beside bits of enum dp_offload. */
enum {
	kernel_refuses_names = 64,
	kernel_refuses_eventfd = 128,
	kernel_refuses_epoll = 256,
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

enum { items_max = 1024, iovecs_max = 1024 };

struct queue {
	uint32_t used;
	uint32_t taken;
	struct item item[items_max];
};

/* Of the thread that asks. */
struct scheduling {
	int nice;
	uint64_t slice_ns;
	uint32_t asked;
	int error; /* EPERM: less niceness is refused, ENOSYS: all is */
};

struct kernel {
	struct dp *dp;
	bool is_ipv4; /* the underlay */
	bool is_bulk_next; /* to make its epoll instance */
	struct queue tun[kernel_queues];
	struct queue underlay[kernel_queues];
	struct records wire;
	struct records host;
	struct dp_counters seen; /* calls, and what they did not take */
	uint32_t socket_drops;   /* that the kernel would say it had */
	struct fault fault[calls];
	uint32_t refused; /* what it says no to when asked */
	bool refuses_randomness;
	int unwatched_fd; /* that cannot be waited for; 0: none */
	uint32_t open;    /* descriptors that the core has made and not closed */
	struct scheduling scheduling;
	uint64_t clock_ns;
	uint32_t tick_ns;         /* how far the clock goes by itself whenever it is read */
	uint32_t interrupt_after; /* calls until interrupt, in the middle of one; 0: never */
	int fatal_error;          /* that must end dp_run */
	void (*interrupt)(struct kernel *kernel);
	/* What happens while the worker sleeps; false: nothing more. */
	bool (*next)(struct kernel *kernel);
	/* A super-packet is written to the TAP, which takes it or not. */
	void (*on_whole)(struct kernel *kernel, const struct look *super, bool is_refused);
	/* The socket hands this over. */
	void (*on_arrival)(struct kernel *kernel, const struct item *item);
};

/* The one whose forwarder runs. */
extern struct kernel *kernel;

/* From now on the allocation after this many fails, once; 0: none. */
extern uint32_t kernel_allocations;

/* For the calls' stand-ins: whether this one is to fail, and its failing. */
bool kernel_is_due(enum call call);
int kernel_fail(enum call call);

#endif
