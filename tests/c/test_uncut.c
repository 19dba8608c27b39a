/* SPDX-License-Identifier: Apache-2.0 */
#include "state/uncut.h"

#include "harness.h"
#include "twin.h"

enum { headers = 40, payload = 20000, probe_ms = 3000, refused_ms = 10 * 60 * 1000 };

static uint64_t clock_ms;
static struct dp dp;
static struct uncut slots[2];
static struct fib_peer peer;

int __wrap_clock_gettime(clockid_t clock, struct timespec *now);

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	(void)clock;
	*now = (struct timespec){.tv_sec = (time_t)(clock_ms / 1000), .tv_nsec = (long)(clock_ms % 1000) * 1000000};
	return 0;
}

/* The forwarder as it is before anything was sent. The 32 bits of milliseconds wrap within each test. */
static void begin(void)
{
	memset(slots, 0, sizeof(slots));
	memset(&dp, 0, sizeof(dp));
	dp.uncut = slots;
	peer = (struct fib_peer){.slot = 1, .identity = 7};
	clock_ms = UINT32_MAX - 1000;
}

static const struct twin_spec out = {
	.version = 4, .proto = proto_tcp, .ttl = 64, .flags = 0x10, .ports = {40000, 80}, .payload = payload,
	.source = {10, 244, 1, 5}, .destination = {10, 244, 2, 7},
};

static struct ip made(const struct twin_spec *spec)
{
	static uint8_t packets[2][packet_max];
	static int turn;
	uint8_t *packet = packets[turn ^= 1];
	struct ip ip;

	CHECK(ip_parse(packet, twin_packet(packet, spec, 1), &ip));
	return ip;
}

static bool allows_from(uint32_t sequence, uint64_t *probe)
{
	struct twin_spec spec = out;
	struct ip ip;

	spec.sequence = sequence;
	ip = made(&spec);
	return uncut_allows(&dp, &peer, &ip, headers, probe);
}

static bool allows(void)
{
	uint64_t probe;

	return allows_from(1000, &probe);
}

static void sends(uint32_t sequence, uint32_t bytes, uint16_t port)
{
	struct twin_spec spec = out;
	struct ip ip;

	spec.sequence = sequence;
	spec.payload = bytes;
	spec.ports[0] = port;
	ip = made(&spec);
	uncut_sent(&dp, &peer, &ip);
}

static void acknowledges(uint32_t sequence, uint16_t port, uint8_t flags)
{
	struct twin_spec spec = out;
	struct ip ip;

	memcpy(spec.source, out.destination, 4);
	memcpy(spec.destination, out.source, 4);
	spec.ports[0] = out.ports[1];
	spec.ports[1] = port;
	spec.payload = 0;
	spec.flags = flags;
	spec.acknowledgement = sequence;
	ip = made(&spec);
	uncut_received(&dp, &peer, &ip);
}

static void an_acknowledged_probe_proves(void)
{
	begin();
	CHECK(!uncut_is_probing(&dp));
	CHECK(allows() && uncut_is_probing(&dp));
	CHECK(!allows()); /* one probe at a time */
	acknowledges(1000 + payload - 1, 40000, 0x10); /* not all of it */
	acknowledges(1000 + payload, 40001, 0x10);     /* another flow */
	acknowledges(1000 + payload, 40000, 0x00);     /* no ACK */
	CHECK(!allows() && uncut_is_probing(&dp));
	acknowledges(1000 + payload, 40000, 0x10);
	CHECK(!uncut_is_probing(&dp));
	CHECK(allows() && allows() && !uncut_is_probing(&dp));

	struct twin_spec datagram = out;
	struct ip ip;
	uint64_t probe;

	datagram.proto = proto_udp;
	ip = made(&datagram);
	CHECK(uncut_allows(&dp, &peer, &ip, 28, &probe) && !probe);
}

static void sequence_numbers_wrap(void)
{
	uint64_t probe;

	begin();
	CHECK(allows_from(UINT32_MAX - 99, &probe) && probe);
	acknowledges(UINT32_MAX, 40000, 0x10);
	CHECK(uncut_is_probing(&dp));
	acknowledges(payload - 100, 40000, 0x10);
	CHECK(!uncut_is_probing(&dp) && allows());
}

static void udp_is_no_probe(void)
{
	struct twin_spec datagram = out;
	struct ip ip;
	uint64_t probe;

	begin();
	datagram.proto = proto_udp;
	ip = made(&datagram);
	CHECK(!uncut_allows(&dp, &peer, &ip, 28, &probe) && !probe && !uncut_is_probing(&dp));
}

static void two_lost_probes_refuse(void)
{
	begin();
	CHECK(allows());
	sends(1000 + payload, 1400, 40000); /* what follows it */
	sends(1000 - 1400, 1400, 40000);    /* what went before it */
	sends(1000, 1400, 40001);           /* another flow */
	sends(1000, 0, 40000);              /* an ACK without payload */
	CHECK(uncut_is_probing(&dp));
	sends(1000, 1400, 40000);
	CHECK(!uncut_is_probing(&dp) && !allows());
	clock_ms += probe_ms - 1;
	CHECK(!allows());
	clock_ms += 1;
	CHECK(allows());
	sends(1000 + payload - 1, 1400, 40000);
	CHECK(!uncut_is_probing(&dp));
	clock_ms += refused_ms - 1;
	CHECK(!allows());
	clock_ms += 1;
	CHECK(allows()); /* and begins anew: one more loss is not a refusal */
	sends(1000, 1400, 40000);
	clock_ms += probe_ms;
	CHECK(allows());
	acknowledges(1000 + payload, 40000, 0x10);
	CHECK(allows() && allows());
}

static void a_probe_without_news_is_forgotten(void)
{
	begin();
	CHECK(allows());
	clock_ms += probe_ms - 1;
	CHECK(!allows());
	clock_ms += 1;
	CHECK(allows() && atomic_load(&dp.probes) == 1);
	acknowledges(1000 + payload, 40000, 0x10);
	CHECK(allows() && !uncut_is_probing(&dp));
}

static void silence_does_not_forgive_a_loss(void)
{
	begin();
	CHECK(allows());
	sends(1000, 1400, 40000);
	clock_ms += probe_ms;
	CHECK(allows());
	clock_ms += probe_ms;
	CHECK(allows());
	sends(1000, 1400, 40000);
	clock_ms += probe_ms;
	CHECK(!allows());
}

static void what_could_not_be_sent_was_no_probe(void)
{
	uint64_t first, second;

	begin();
	CHECK(allows_from(1000, &first) && first);
	uncut_forget(&dp, &peer, first);
	CHECK(!uncut_is_probing(&dp));
	CHECK(allows_from(1000, &second) && second != first);
	uncut_forget(&dp, &peer, first); /* an old probe's word decides nothing */
	CHECK(uncut_is_probing(&dp) && !allows());
}

static void another_vtep_in_the_slot_begins_anew(void)
{
	begin();
	CHECK(allows());
	acknowledges(1000 + payload, 40000, 0x10);
	peer.identity = 8;
	CHECK(allows() && !allows() && uncut_is_probing(&dp));
	peer.identity = 9;
	acknowledges(1000 + payload, 40000, 0x10); /* of the one before */
	CHECK(allows() && !allows() && atomic_load(&dp.probes) == 1);
}

int main(void)
{
	harness_begin();
	RUN(an_acknowledged_probe_proves);
	RUN(sequence_numbers_wrap);
	RUN(udp_is_no_probe);
	RUN(two_lost_probes_refuse);
	RUN(a_probe_without_news_is_forgotten);
	RUN(silence_does_not_forgive_a_loss);
	RUN(what_could_not_be_sent_was_no_probe);
	RUN(another_vtep_in_the_slot_begins_anew);
	return harness_end();
}
