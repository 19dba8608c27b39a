/* SPDX-License-Identifier: Apache-2.0 */
/* What no input reaches, or chance takes long to find, before any fuzzing. */
#include <errno.h>

#include "life/play.h"

/* What no input reaches: each allocation refused, no descriptor, wrong configurations, a forwarder's end. */
static void check_making(void)
{
	struct dp_config right = make_config((uint8_t[4]){DP_OFFLOAD_ALL, 1}), wrong[16];
	struct dp *dp = NULL;
	uint32_t refusals = 0;

	kernel->is_ipv4 = true;
	for (uint32_t i = 0; i < 16; i++)
		wrong[i] = right;
	wrong[0].backend = 3;
	wrong[1].workers = 0;
	wrong[2].sources = DP_MAX_SOURCES + 1;
	wrong[3].mtu = 67;
	wrong[4].port = 65536;
	wrong[5].underlay_family = 5;
	wrong[6].vni = 1 << 24;
	wrong[7].workers = DP_MAX_WORKERS + 1;
	wrong[8].sources = 0;
	wrong[9].mtu = packet_max + 1;
	wrong[10].port = 0;
	wrong[11].edges[0].tuns = 0;
	wrong[12].edges[0].tuns = DP_MAX_QUEUES + 1;
	wrong[13].edges[0].receives = 0;
	wrong[14].edges[0].receives = DP_MAX_QUEUES + 1;
	wrong[15].workers = 2; /* the second has no edges */
	for (uint32_t i = 0; i < 16; i++)
		CHECK(i == 6 && format == DP_BACKEND_UDP ? true : dp_new(&wrong[i], &dp) == -EINVAL);
	kernel->refused = kernel_refuses_eventfd;
	CHECK(dp_new(&right, &dp) == -EMFILE);
	kernel->refused = kernel_refuses_epoll;
	CHECK(dp_new(&right, &dp) == -EMFILE);
	kernel->refused = 0;
	for (uint32_t i = 0; i < 3; i++) {
		kernel->unwatched_fd = (int[]){kernel_tun_fd, kernel_receive_fd, kernel_stop_fd}[i];
		CHECK(dp_new(&right, &dp) == -ENOSPC);
	}
	kernel->unwatched_fd = 0;
	for (;; refusals++) {
		kernel_allocations = refusals + 1;
		if (dp_new(&right, &dp) == 0)
			break;
		CHECK(kernel_allocations == 0 && !dp && kernel->open == 0);
	}
	CHECK(refusals > 10);
	for (uint32_t i = 0; i < 4; i++) {
		struct dp_peer peer = make_peer(i % 2 ? 6 : 4, 1 + i / 2, 1, 1, 4);

		CHECK(dp_peer_set(dp, i, &peer) == 0);
	}
	for (refusals = 0;; refusals++) {
		kernel_allocations = refusals + 1;
		if (dp_commit(dp) == 0)
			break;
		CHECK(kernel_allocations == 0);
	}
	CHECK(refusals > 4);
	kernel_allocations = 0;
	kernel->refuses_randomness = true;
	CHECK(dp_commit(dp) == -EIO);
	kernel->refuses_randomness = false;
	CHECK(dp_offloads(dp) == (format == DP_BACKEND_UDP ? DP_OFFLOAD_ALL & ~DP_OFFLOAD_TUNNEL_GSO : DP_OFFLOAD_ALL));
	CHECK(dp_run(dp, 2) == -EINVAL);
	dp_free(dp);
	dp_free(NULL);
	CHECK(kernel->open == 0);
}

/* A worker's thread gets the least slice there is, and keeps its nice; where the kernel refuses, it goes on. */
static void check_hurry(void)
{
	struct scheduling *scheduling = &kernel->scheduling;
	static const struct scheduling cases[][2] = {
		{{.nice = 0}, {.nice = 0, .slice_ns = 100000, .asked = 1}},
		{{.nice = -15}, {.nice = -15, .slice_ns = 100000, .asked = 1}},
		{{.nice = 5, .error = ENOSYS}, {.nice = 5, .asked = 1}},
	};

	for (uint32_t i = 0; i < 3; i++) {
		*scheduling = cases[i][0];
		dp_hurry();
		CHECK(scheduling->nice == cases[i][1].nice && scheduling->slice_ns == cases[i][1].slice_ns);
		CHECK(scheduling->asked == cases[i][1].asked);
	}
}

/* Each error of each call, once and often, with packets both ways around it, with all offloads and without. */
static void check_faults(void)
{
	static const uint8_t packets[] = {
		0x80, 1, 5, 0, 0x40, 0, 0xc4, 0,       /* out: a super-packet of TCP */
		0x80, 2, 2, 0, 0x47, 0, 0xc1, 0,       /* one of UDP, IPv6 */
		0x80, 0, 0, 0, 0x44, 0, 0, 100,        /* a packet */
		0x84, 3, 0, 0x40, 0, 0, 100,           /* in: a train of TCP */
		0x84, 0x13, 1, 0x47, 0, 0, 100,        /* one of UDP, IPv6, the last one shorter */
		0x80, 0, 0, 0, 0x4c, 0, 0, 100,        /* out: no route, which owes an error */
		0x04, 0, 0, 0x44, 0, 0, 100,           /* in: a packet, and wake */
	};

	for (uint32_t life = 0; life < 4 * 256; life++) {
		uint8_t input[7 + 2 * sizeof(packets)] = {life & 256 ? 0xff : 0, life & 256 ? 0xa1 : 0x20, 0, 1, 0x8d, (uint8_t)life,
							  life & 512 ? 0xe1 : 0};

		memcpy(input + 7, packets, sizeof(packets));
		memcpy(input + 7 + sizeof(packets), packets, sizeof(packets));
		live(input, sizeof(input));
	}
}

/* What an offload saves: the verdict does not see whether one is used. */
static void check_savings(void)
{
	static const uint8_t packets[] = {
		0x80, 2, 5, 0, 0x42, 0, 0xc4, 0, /* out: a super-packet of four segments, UDP */
		0x80, 1, 5, 0, 0x44, 0, 0xc4, 0, /* TCP, to another peer */
		0x84, 3, 0, 0x40, 0, 0, 100,     /* in: a train of four, TCP */
		0x04, 3, 0, 0x42, 0, 0, 100,     /* UDP, and wake */
	};
	const struct dp_counters *seen = &kernel->seen;
	uint8_t input[4 + sizeof(packets)] = {0, 1};

	memcpy(input + 4, packets, sizeof(packets));
	live(input, sizeof(input));
	CHECK(seen->underlay_sends == 8 && seen->tunnel_sends == 0 && seen->tun_writes == 8);
	input[0] = DP_OFFLOAD_ALL;
	live(input, sizeof(input));
	CHECK(seen->tunnel_sends == (format == DP_BACKEND_VXLAN) && seen->tun_writes == 2);
	CHECK(seen->underlay_sends + seen->tunnel_sends == 2);
}

#define SUPER 0x00, 1, 5, 0, 0x40, 0, 0xc4, 0 /* of TCP, to hop 0 */
#define AGAIN 0x00, 1, 5, 0, 0xc0, 0, 0xc4, 0 /* the one before */
#define SUPER_UDP 0x00, 2, 5, 0, 0x42, 0, 0xc4, 0
#define ANSWER 0x04, 0, 0, 0x40, 0, 0, 100    /* acknowledges all of it */
#define SECONDS 0x8f, 2, 0                    /* 3.001 */
#define MINUTES 0x8f, 3, 0                    /* 10, and a millisecond */
#define FULL 0x8d, 0x03, 0                    /* the next write to the TAP says EAGAIN */
#define BROKEN 0x8d, 0x33, 0                  /* EIO */

/* Who gets super-packets whole, in fixed lives (decision 0020); verdict/wholes.h sees only who must not. */
static void check_wholes(void)
{
	static const struct {
		uint32_t wholes;
		uint32_t len;
		uint8_t steps[128];
	} lives[] = {
		{1, 4 * 8, {SUPER, SUPER, SUPER_UDP, SUPER}}, /* probing */
		{2, 3 * 8 + 3, {SUPER, SUPER, SECONDS, SUPER}}, /* forgotten */
		{4, 5 * 8 + 7, {SUPER_UDP, SUPER, ANSWER, SUPER, SUPER_UDP, SUPER}}, /* proven */
		{2, 4 * 8 + 3, {SUPER, AGAIN, SUPER, SECONDS, SUPER}}, /* doubted */
		{3, 7 * 8 + 9, {SUPER, AGAIN, SECONDS, SUPER, AGAIN, SUPER, SECONDS, SUPER, MINUTES, SUPER}}, /* refused */
		{4, 5 * 8 + 10, {SUPER, AGAIN, SECONDS, SUPER, ANSWER, SUPER, AGAIN}}, /* after all */
		{1, 3 * 8 + 3, {FULL, SUPER, SUPER, SUPER}}, /* a probe that did not leave is none */
		{0, 2 * 8 + 3, {BROKEN, SUPER, SUPER}}, /* never again */
	};

	for (uint32_t i = 0; i < sizeof(lives) / sizeof(lives[0]); i++) {
		uint8_t input[4 + sizeof(lives[0].steps)] = {DP_OFFLOAD_ALL, 1};

		memcpy(input + 4, lives[i].steps, lives[i].len);
		live(input, 4 + lives[i].len);
		CHECK(kernel->seen.tunnel_sends == (format == DP_BACKEND_VXLAN ? lives[i].wholes : 0));
	}
}

void check_fixed(void)
{
	check_making();
	check_hurry();
	check_faults();
	check_savings();
	check_wholes();
}
