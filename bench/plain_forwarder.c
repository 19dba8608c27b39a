/* SPDX-License-Identifier: Apache-2.0 */
/* The plain twin: a userspace forwarder that moves one packet per system call, the yardstick beneath the data plane.
 *
 *     plain_forwarder DEVICE LOCAL PEER PORT
 *
 * TUN in, UDP out, and back; the wire format is flannel's udp (the bare IP packet), one peer, no offload, no batch, no
 * check of what comes in beyond its sender. It stays as it is when the core changes: results stay comparable over time.
 * Prints "ready" when the device exists; runs until a signal ends it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	packet_max = 65535,
	burst = 64,              /* packets of one direction before the other has its turn */
	buffer_bytes = 4 << 20,  /* as the data plane asks for */
	ipv4_header = 20,
};

static void fail(const char *what)
{
	fprintf(stderr, "plain_forwarder: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_tun(const char *name)
{
	struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		fail("/dev/net/tun");
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		fail(name);
	return fd;
}

static struct sockaddr_in address(const char *text, const char *port)
{
	struct sockaddr_in out = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};

	if (out.sin_port == 0 || inet_pton(AF_INET, text, &out.sin_addr) != 1) {
		fprintf(stderr, "plain_forwarder: %s port %s: allowed is an IPv4 address and a port\n", text, port);
		exit(2);
	}
	return out;
}

static int open_udp(const struct sockaddr_in *local)
{
	int size = buffer_bytes;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		fail("socket");
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (bind(fd, (const struct sockaddr *)local, sizeof(*local)) < 0)
		fail("bind");
	return fd;
}

/* Count one hop (RFC 791 3.2), the checksum adjusted as RFC 1624 equation 3 says; false: the packet ends here. */
static bool count_hop(uint8_t *packet, ssize_t size)
{
	uint32_t sum;

	if (size < ipv4_header || packet[0] >> 4 != 4 || packet[8] <= 1)
		return false;
	packet[8]--;
	sum = (uint32_t)(packet[10] << 8 | packet[11]) + 0x100; /* the TTL is the high byte of its word */
	sum = (sum & 0xffff) + (sum >> 16);
	packet[10] = (uint8_t)(sum >> 8);
	packet[11] = (uint8_t)sum;
	return true;
}

static void outward(int tun, int udp, const struct sockaddr_in *peer)
{
	static uint8_t packet[packet_max];

	for (int i = 0; i < burst; i++) {
		ssize_t got = read(tun, packet, sizeof(packet));

		if (got <= 0)
			return;
		if (count_hop(packet, got))
			/* A full socket buffer loses the packet, as a full queue of a device would. */
			(void)!sendto(udp, packet, (size_t)got, 0, (const struct sockaddr *)peer, sizeof(*peer));
	}
}

static void inward(int tun, int udp, const struct sockaddr_in *peer)
{
	static uint8_t packet[packet_max];

	for (int i = 0; i < burst; i++) {
		struct sockaddr_in from;
		socklen_t size = sizeof(from);
		ssize_t got = recvfrom(udp, packet, sizeof(packet), 0, (struct sockaddr *)&from, &size);

		if (got <= 0)
			return;
		if (from.sin_addr.s_addr == peer->sin_addr.s_addr && count_hop(packet, got))
			(void)!write(tun, packet, (size_t)got);
	}
}

int main(int argc, char **argv)
{
	if (argc != 5) {
		fputs("usage: plain_forwarder DEVICE LOCAL PEER PORT\n", stderr);
		return 2;
	}
	struct sockaddr_in local = address(argv[2], argv[4]), peer = address(argv[3], argv[4]);
	int tun = open_tun(argv[1]), udp = open_udp(&local);
	struct pollfd ready[2] = {{tun, POLLIN, 0}, {udp, POLLIN, 0}};

	puts("ready");
	fflush(stdout);
	for (;;) {
		if (poll(ready, 2, -1) < 0 && errno != EINTR)
			fail("poll");
		if (ready[0].revents)
			outward(tun, udp, &peer);
		if (ready[1].revents)
			inward(tun, udp, &peer);
	}
}
