/* SPDX-License-Identifier: Apache-2.0 */
/* UDP load for the path benchmarks: a paced sender, a counting receiver, and a ping-pong pair.
 *
 *     udpload receive PORT                           counts until `quiet_ms` pass without a datagram after the first
 *     udpload send ADDRESS PORT SIZE RATE SECONDS    RATE datagrams a second, SIZE bytes of payload
 *     udpload pong PORT                              answers every datagram until SIGTERM
 *     udpload ping ADDRESS PORT SIZE SECONDS         one datagram at a time; percentiles of the round trip
 *
 * Each prints "ready" when its socket is bound (receive, pong), and one line of JSON at its end. The sender and the
 * receiver sleep from tick to tick and work off in batches what has become due: a receiver that blocked would be woken
 * for each packet, and on a virtual machine that costs more than the packet's whole way. What must stay true: neither
 * keeps a processor from a forwarder that shares it, the sender makes up for `most_behind` ticks of lateness at most, the
 * receive buffer holds more than a tick brings, and every run ends by itself.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
	batch = 64,
	payload_max = 9000,
	tick_ns = 100 * 1000,
	most_behind = 50,          /* ticks: 5 ms of lateness is made up for, more is forgotten */
	first_ms = 3000,           /* how long the receiver waits for the first datagram */
	quiet_ms = 60,
	pong_wait_ms = 200,
	round_trips_max = 4 << 20,
	buffer_bytes = 8 << 20,
};

static volatile sig_atomic_t stopped;

static void stop(int number)
{
	(void)number;
	stopped = 1;
}

static int64_t now_ns(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

static void sleep_until(int64_t at)
{
	struct timespec until = {at / 1000000000, at % 1000000000};

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

static void fail(const char *what)
{
	fprintf(stderr, "udpload: %s: %s\n", what, strerror(errno));
	exit(1);
}

static long number(const char *text, long low, long high)
{
	char *end;
	long value = strtol(text, &end, 10);

	if (*text == '\0' || *end != '\0' || value < low || value > high) {
		fprintf(stderr, "udpload: %s: allowed is a whole number from %ld to %ld\n", text, low, high);
		exit(2);
	}
	return value;
}

static double seconds(const char *text)
{
	char *end;
	double value = strtod(text, &end);

	if (*text == '\0' || *end != '\0' || !(value > 0 && value <= 3600)) {
		fprintf(stderr, "udpload: %s: allowed is a number of seconds from 0 to 3600\n", text);
		exit(2);
	}
	return value;
}

static struct sockaddr_in address(const char *text, const char *port)
{
	struct sockaddr_in out = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number(port, 1, 65535))};

	if (text != NULL && inet_pton(AF_INET, text, &out.sin_addr) != 1) {
		fprintf(stderr, "udpload: %s: allowed is an IPv4 address\n", text);
		exit(2);
	}
	return out;
}

static int open_bound(const char *port)
{
	struct sockaddr_in local = address(NULL, port);
	int size = buffer_bytes;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		fail("socket");
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	if (bind(fd, (struct sockaddr *)&local, sizeof(local)) < 0)
		fail("bind");
	puts("ready");
	fflush(stdout);
	return fd;
}

static int open_connected(const char *host, const char *port)
{
	struct sockaddr_in remote = address(host, port);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		fail("socket");
	if (connect(fd, (struct sockaddr *)&remote, sizeof(remote)) < 0)
		fail("connect");
	return fd;
}

static void wait_at_most(int fd, int milliseconds)
{
	struct timeval limit = {milliseconds / 1000, milliseconds % 1000 * 1000};

	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0)
		fail("SO_RCVTIMEO");
}

static void prepare(struct mmsghdr *messages, struct iovec *vectors, uint8_t *bytes, size_t size, size_t stride)
{
	for (int i = 0; i < batch; i++) {
		vectors[i] = (struct iovec){bytes + (size_t)i * stride, size};
		messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &vectors[i], .msg_iovlen = 1}};
	}
}

static int run_receive(char **words)
{
	static uint8_t bytes[batch * payload_max];
	struct mmsghdr messages[batch];
	struct iovec vectors[batch];
	uint64_t packets = 0, octets = 0;
	int64_t first = 0, last = 0;
	int fd = open_bound(words[0]);

	prepare(messages, vectors, bytes, payload_max, payload_max);
	prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
	for (int64_t start = now_ns(); !stopped;) {
		int got = recvmmsg(fd, messages, batch, MSG_DONTWAIT, NULL);
		int64_t at = now_ns();

		if (got < 0) {
			if (first == 0 ? at - start > first_ms * INT64_C(1000000) : at - last > quiet_ms * INT64_C(1000000))
				break;
			sleep_until(at + tick_ns);
			continue;
		}
		last = at;
		if (first == 0)
			first = last;
		packets += (uint64_t)got;
		for (int i = 0; i < got; i++)
			octets += messages[i].msg_len;
	}
	printf("{\"packets\": %llu, \"bytes\": %llu, \"seconds\": %.6f}\n", (unsigned long long)packets,
	       (unsigned long long)octets, (double)(last - first) / 1e9);
	return 0;
}

static int run_send(char **words)
{
	static uint8_t bytes[payload_max];
	struct mmsghdr messages[batch];
	struct iovec vectors[batch];
	size_t size = (size_t)number(words[2], 1, payload_max);
	double rate = (double)number(words[3], 1, 100000000);
	int64_t start, end, at;
	double forgotten = 0;
	uint64_t sent = 0, refused = 0;
	int fd = open_connected(words[0], words[1]);

	prepare(messages, vectors, bytes, size, 0);
	prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
	start = now_ns();
	end = start + (int64_t)(seconds(words[4]) * 1e9);
	for (at = start; at < end && !stopped; at = now_ns()) {
		double due = (double)(at - start) * rate / 1e9 - forgotten - (double)(sent + refused);
		double most = (double)most_behind * tick_ns * rate / 1e9 + batch;

		if (due > most) {
			forgotten += due - most;
			due = most;
		}
		if (due < 1) {
			sleep_until(at + tick_ns);
			continue;
		}
		unsigned count = due < batch ? (unsigned)due : batch;
		int done = sendmmsg(fd, messages, count, 0);

		if (done >= 0)
			sent += (uint64_t)done;
		else if (errno == ENOBUFS || errno == EAGAIN || errno == ECONNREFUSED || errno == EINTR)
			refused++;
		else
			fail("sendmmsg");
	}
	printf("{\"packets\": %llu, \"refused\": %llu, \"seconds\": %.6f}\n", (unsigned long long)sent,
	       (unsigned long long)refused, (double)(at - start) / 1e9);
	return 0;
}

static int run_pong(char **words)
{
	static uint8_t bytes[payload_max];
	int fd = open_bound(words[0]);

	wait_at_most(fd, pong_wait_ms);
	while (!stopped) {
		struct sockaddr_in peer;
		socklen_t peer_size = sizeof(peer);
		ssize_t got = recvfrom(fd, bytes, sizeof(bytes), 0, (struct sockaddr *)&peer, &peer_size);

		if (got > 0)
			sendto(fd, bytes, (size_t)got, 0, (struct sockaddr *)&peer, peer_size);
	}
	return 0;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static int run_ping(char **words)
{
	static uint8_t out[payload_max], in[payload_max];
	size_t size = (size_t)number(words[2], 8, payload_max);
	uint32_t *trips = malloc(round_trips_max * sizeof(*trips));
	uint64_t count = 0, lost = 0, sequence = 0;
	int fd = open_connected(words[0], words[1]);
	int64_t end = now_ns() + (int64_t)(seconds(words[3]) * 1e9);

	if (trips == NULL)
		fail("malloc");
	wait_at_most(fd, pong_wait_ms);
	while (!stopped && count < round_trips_max) {
		int64_t at = now_ns();
		ssize_t got;

		if (at >= end)
			break;
		sequence++;
		memcpy(out, &sequence, sizeof(sequence));
		if (send(fd, out, size, 0) < 0)
			continue;
		do /* an answer to a datagram that was given up on is not this one's */
			got = recv(fd, in, sizeof(in), 0);
		while (got >= (ssize_t)sizeof(sequence) && memcmp(in, &sequence, sizeof(sequence)) != 0);
		if (got < 0)
			lost++;
		else
			trips[count++] = (uint32_t)(now_ns() - at);
	}
	if (count == 0) {
		fprintf(stderr, "udpload: no datagram came back, %llu sent\n", (unsigned long long)sequence);
		return 1;
	}
	qsort(trips, count, sizeof(*trips), compare);
	printf("{\"round_trips\": %llu, \"lost\": %llu, \"p50_us\": %.2f, \"p99_us\": %.2f}\n", (unsigned long long)count,
	       (unsigned long long)lost, trips[count / 2] / 1e3, trips[count - 1 - count / 100] / 1e3);
	free(trips);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int words;
		int (*run)(char **words);
	} modes[] = {{"receive", 1, run_receive}, {"send", 5, run_send}, {"pong", 1, run_pong}, {"ping", 4, run_ping}};
	struct sigaction action = {.sa_handler = stop}; /* without SA_RESTART: waiting calls end */

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (argc > 1 && strcmp(argv[1], modes[i].name) == 0 && argc == modes[i].words + 2)
			return modes[i].run(argv + 2);
	fputs("usage: udpload receive PORT | send ADDRESS PORT SIZE RATE SECONDS | pong PORT | ping ADDRESS PORT SIZE SECONDS\n", stderr);
	return 2;
}
