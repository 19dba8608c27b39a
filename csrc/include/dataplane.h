/* SPDX-License-Identifier: Apache-2.0 */
/* The whole boundary between the core and its user: one opaque forwarder, its configuration, its peers, its counters.
 *
 * The user (dataplane/core.py) opens every descriptor and keeps owning it; the core only reads and writes them. Calls
 * return 0 or -errno. No packet, callback, log line or buffer ever crosses. What must stay true:
 *   - all calls except dp_run are short and may be made from any thread; dp_run blocks until dp_stop, one thread per worker;
 *   - a change of peers becomes visible to packets only by dp_commit, as a whole: a packet sees the old table or the new one;
 *   - what stands between the two cdef marks below is read as is by cffi (csrc/cdef.py), so the contract is written once.
 */
#ifndef DATAPLANE_H
#define DATAPLANE_H

#include <stddef.h>
#include <stdint.h>

/* cdef begin */
#define DP_MAX_WORKERS 16
#define DP_MAX_SOURCES 32
#define DP_MAX_QUEUES 64
#define DP_MAX_PEERS 65536

enum dp_backend {
	DP_BACKEND_UDP = 1,   /* raw IP in UDP (flannel's udp) */
	DP_BACKEND_VXLAN = 2, /* RFC 7348 */
};

/* Kernel features that the two edges may use. Each has a plain twin that is used where the bit is off. */
enum dp_offload {
	DP_OFFLOAD_TUN_GSO = 1,     /* TUN hands over and takes TCP super-packets and unfinished checksums */
	DP_OFFLOAD_TUN_USO = 2,     /* the same for UDP (Linux 6.2) */
	DP_OFFLOAD_UDP_SEGMENT = 4, /* a train of equal datagrams in one send */
	DP_OFFLOAD_UDP_GRO = 8,     /* a train of equal datagrams in one receive */
	DP_OFFLOAD_COALESCE = 16,   /* received segments of one flow are joined before the TUN write */
	DP_OFFLOAD_TUNNEL_GSO = 32, /* a super-packet leaves whole, through a TAP (Linux 6.17) */
	DP_OFFLOAD_ALL = 63,
};

/* An underlay or overlay address: IPv4 in the first 4 bytes, network order. */
struct dp_address {
	uint8_t family; /* 4 or 6; 0: not set */
	uint8_t bytes[16];
};

/* Where a worker reads, each in its turn, and writes (to the first of the TUN's queues). All are non-blocking. */
struct dp_edges {
	uint32_t tuns;     /* how many of each, at least 1 */
	uint32_t receives;
	int tun_fds[DP_MAX_QUEUES];     /* queues of the TUN */
	int receive_fds[DP_MAX_QUEUES]; /* UDP sockets bound to the underlay address and the port */
};

struct dp_config {
	uint32_t backend;          /* enum dp_backend */
	uint32_t offloads;         /* wanted bits of enum dp_offload; dp_new probes and keeps what works */
	uint32_t vnet_hdr;         /* 1: the TUN was opened with IFF_VNET_HDR */
	uint32_t vni;              /* 24 bits; vxlan only */
	uint32_t port;             /* destination port of what we send */
	uint32_t mtu;              /* largest inner packet in bytes */
	uint32_t underlay_family;  /* 4 or 6 */
	uint32_t spin_us;          /* how long an idle worker polls before it sleeps, microseconds */
	uint8_t vtep_mac[6];       /* our VTEP MAC; vxlan only */
	struct dp_address tunnel4; /* source of the ICMP errors we make, and an inner source peers may use */
	struct dp_address tunnel6;
	uint32_t workers; /* each is two threads, see dp_run */
	struct dp_edges edges[DP_MAX_WORKERS];
	uint32_t sources;              /* how many sockets to send from; the flow hash chooses (source-port entropy) */
	int source_fds[DP_MAX_SOURCES];
	int tunnel_fd; /* TAP with virtio-net headers whose frames reach the underlay device; -1: there is none */
};

/* What an overlay prefix means. The slot (0 … DP_MAX_PEERS-1) is the caller's name for it, and its counters' index. */
struct dp_peer {
	struct dp_address prefix;
	uint32_t prefix_len;
	uint32_t local;             /* 1: our own subnet; next_hop and vtep_mac are not used */
	struct dp_address next_hop; /* underlay address that it sends from and is reached at */
	uint8_t vtep_mac[6];        /* vxlan only */
};

/* Packets are inner packets as they are on the wire, bytes are their inner bytes; a super-packet is the packets that it is cut into. */
struct dp_peer_counters {
	uint64_t tx_packets;
	uint64_t tx_bytes;
	uint64_t rx_packets;
	uint64_t rx_bytes;
};

/* Every field that starts with drop_ is a reason for which a packet or datagram ended here; a super-packet is the packets that it
 * would have been. A packet that came is in one counter: it left (tx_packets, rx_packets) or was dropped.
 */
struct dp_counters {
	uint64_t tx_packets;         /* that the kernel took to send; what it loses of them then: docs/losses.md */
	uint64_t tx_bytes;
	uint64_t rx_packets;         /* that the TUN took */
	uint64_t rx_bytes;
	uint64_t tun_packets;        /* that the TUN gave; each is counted here first, then as sent or dropped */
	uint64_t tun_reads;          /* successful reads of the TUN (super-packets count once) */
	uint64_t tun_writes;
	uint64_t underlay_sends;     /* datagram trains handed to the kernel */
	uint64_t underlay_full;      /* sends that the kernel refused for want of room, and told its own UDP counter of */
	uint64_t tunnel_sends;       /* super-packets that left whole */
	uint64_t underlay_receives;  /* datagram trains taken from the kernel */
	uint64_t underlay_datagrams; /* that they were; a super-packet that nobody cut is one */
	uint64_t icmp_sent;          /* ICMP errors written to the TUN */
	uint64_t table_changes;      /* times this worker took a newer forwarding table */
	uint64_t handovers;          /* times a queue or socket went to the bulk worker, or came back */
	uint64_t sleeps;             /* times a worker found nothing to do and blocked */
	/* send: overlay to underlay */
	uint64_t drop_send_malformed;    /* what the TUN gave is no whole IP packet */
	uint64_t drop_send_no_route;     /* no peer holds the destination */
	uint64_t drop_send_multicast;    /* multicast or link-local: no such thing in this overlay */
	uint64_t drop_send_ttl;          /* TTL or hop limit used up (udp backend) */
	uint64_t drop_send_too_big;      /* longer than the MTU and not to be fragmented */
	uint64_t drop_send_gso;          /* super-packet of a kind we cannot segment */
	uint64_t drop_send_error;        /* the underlay socket refused it */
	uint64_t drop_send_full;         /* the underlay socket's buffer is full */
	/* receive: underlay to overlay */
	uint64_t drop_receive_socket;          /* by the kernel, at our socket: its buffer full, or a bad outer checksum; a train is one */
	uint64_t drop_receive_unknown_sender;  /* outer source holds no lease */
	uint64_t drop_receive_short;           /* too short for its headers */
	uint64_t drop_receive_truncated;       /* longer than any datagram we take */
	uint64_t drop_receive_vxlan_flags;     /* I bit missing, or a reserved bit set */
	uint64_t drop_receive_vni;             /* not our VNI */
	uint64_t drop_receive_inner_mac;       /* inner destination MAC is not ours, or the source is not the peer's */
	uint64_t drop_receive_inner_type;      /* inner EtherType is neither IPv4 nor IPv6 */
	uint64_t drop_receive_malformed;       /* inner IP header or length is wrong */
	uint64_t drop_receive_inner_source;    /* inner source is neither in the sender's subnet nor its address */
	uint64_t drop_receive_inner_destination; /* inner destination is outside our subnet */
	uint64_t drop_receive_multicast;       /* inner multicast or broadcast, our own subnet's broadcast included */
	uint64_t drop_receive_ra;              /* inner router advertisement or redirect */
	uint64_t drop_receive_checksum;        /* inner TCP or UDP checksum is wrong */
	uint64_t drop_receive_ecn;             /* congestion mark on a packet that cannot carry it (RFC 6040) */
	uint64_t drop_receive_ttl;             /* TTL or hop limit used up (udp backend) */
	uint64_t drop_tun_error;               /* the TUN refused the write */
	uint64_t drop_tun_full;                /* the TUN's queue is full */
	uint64_t drop_icmp_limited;            /* ICMP error not made: too many already */
};

struct dp;

int dp_new(const struct dp_config *config, struct dp **out);
void dp_free(struct dp *dp);
uint32_t dp_offloads(const struct dp *dp); /* in use by every worker */
int dp_tunnel(struct dp *dp, int fd); /* once: config.tunnel_fd of a forwarder that was made without, and may run already */
int dp_forbid(struct dp *dp, uint32_t offloads); /* for the forwarder's life; heeded from the next packet on */
void dp_hurry(void); /* the calling thread, which will run a worker, waits less for a CPU */
/* Before dp_run: count on from what another forwarder counted, its peers by slot from 0 on. */
int dp_count_on(struct dp *dp, const struct dp_counters *from, uint32_t peers, const struct dp_peer_counters *of_peers);
int dp_run(struct dp *dp, uint32_t thread); /* a worker, or its bulk worker: that of worker i is thread workers + i */
int dp_stop(struct dp *dp);
int dp_resume(struct dp *dp); /* once every dp_run has returned: they may be called again */
int dp_peer_set(struct dp *dp, uint32_t slot, const struct dp_peer *peer);
int dp_peer_clear(struct dp *dp, uint32_t slot);
int dp_commit(struct dp *dp);
int dp_read_peers(const struct dp *dp, uint32_t first, uint32_t count, struct dp_peer *out); /* as staged; family 0: an empty slot */
int dp_read_counters(const struct dp *dp, struct dp_counters *out);
int dp_read_peer_counters(const struct dp *dp, uint32_t first, uint32_t count, struct dp_peer_counters *out);
/* cdef end */

#endif
