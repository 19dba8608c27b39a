/* SPDX-License-Identifier: Apache-2.0 */
#include "edges/tun.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum {
	icmp_per_second = 1000,
	icmp_burst = 50,
};

uint32_t tun_probe(int fd, bool vnet_hdr, uint32_t wanted)
{
	unsigned int gso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
	uint32_t rest = wanted & ~(uint32_t)(DP_OFFLOAD_TUN_GSO | DP_OFFLOAD_TUN_USO);

	if (!vnet_hdr)
		return rest & ~(uint32_t)DP_OFFLOAD_COALESCE;
	if (wanted & DP_OFFLOAD_TUN_GSO) {
		/* ENOTTY: no TUN but a socket pair that a test handed in; the configuration is believed. */
		if ((wanted & DP_OFFLOAD_TUN_USO) &&
		    (ioctl(fd, TUNSETOFFLOAD, gso | TUN_F_USO4 | TUN_F_USO6) == 0 || errno == ENOTTY))
			return wanted;
		if (ioctl(fd, TUNSETOFFLOAD, gso) == 0 || errno == ENOTTY)
			return wanted & ~(uint32_t)DP_OFFLOAD_TUN_USO;
	}
	ioctl(fd, TUNSETOFFLOAD, 0);
	return rest & ~(uint32_t)DP_OFFLOAD_COALESCE; /* joined packets can only be written with GSO */
}

int tun_read(struct worker *w, int fd, uint8_t *at, struct virtio_net_hdr *offload)
{
	struct iovec iov[2] = {{offload, sizeof(*offload)}, {at, packet_max}};
	bool vnet_hdr = w->dp->config.vnet_hdr;
	ssize_t got;

	memset(offload, 0, sizeof(*offload));
	do
		got = vnet_hdr ? readv(fd, iov, 2) : read(fd, at, packet_max);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return errno == EAGAIN ? 0 : -errno;
	if (vnet_hdr)
		got -= (ssize_t)sizeof(*offload);
	if (got <= 0)
		return got == 0 ? -EIO : -EPROTO;
	count(&w->counters.tun_reads, 1);
	return (int)got;
}

bool tun_write(struct worker *w, const struct virtio_net_hdr *offload, struct iovec *iov, uint32_t parts, uint32_t packets)
{
	bool vnet_hdr = w->dp->config.vnet_hdr;
	ssize_t put;

	iov[0] = (struct iovec){(void *)(uintptr_t)offload, sizeof(*offload)};
	do
		put = writev(w->edges->tun_fds[0], vnet_hdr ? iov : iov + 1, (int)(vnet_hdr ? parts : parts - 1));
	while (put < 0 && errno == EINTR);
	if (put >= 0) {
		count(&w->counters.tun_writes, 1);
		return true;
	}
	if (errno == EAGAIN || errno == ENOBUFS)
		count(&w->counters.drop_tun_full, packets);
	else
		count(&w->counters.drop_tun_error, packets);
	return false;
}

static bool take_icmp_token(struct worker *w, enum icmp_error error)
{
	struct timespec now;
	uint64_t now_ns;

	clock_gettime(CLOCK_MONOTONIC, &now);
	now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;

	double tokens = w->icmp_tokens[error] + (double)(now_ns - w->icmp_refilled_ns[error]) * icmp_per_second / 1e9;

	if (tokens > icmp_burst)
		tokens = icmp_burst;
	w->icmp_refilled_ns[error] = now_ns;
	w->icmp_tokens[error] = tokens < 1 ? tokens : tokens - 1;
	return tokens >= 1;
}

void tun_write_icmp(struct worker *w, enum icmp_error error, const struct ip *offender)
{
	static const struct virtio_net_hdr plain;
	const struct dp_config *config = &w->dp->config;
	struct iovec iov[2];
	uint32_t len = icmp_build(w->receive.scratch, error, offender,
				  offender->version == 4 ? &config->tunnel4 : &config->tunnel6, config->mtu);

	if (!len)
		return;
	if (!take_icmp_token(w, error)) {
		count(&w->counters.drop_icmp_limited, 1);
		return;
	}
	iov[1] = (struct iovec){w->receive.scratch, len};
	if (tun_write(w, &plain, iov, 2, 1))
		count(&w->counters.icmp_sent, 1);
}
