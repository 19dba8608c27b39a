"""100,000 hostile datagrams change nothing but drop counters: nothing reaches the host, and every one is counted once."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.core.edges import Edges, vxlan
from tests.core.packets import good_in, inward
from tests.core.twin.ip import decrement_ttl

per_round = 500
total = 100_000


foreign = [vxlan(bytes(inward(4, src="10.9.2.9"))), vxlan(bytes(inward(6, src="fd09::9")))]


def noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(0, 120))


def nearly_vxlan(rng: random.Random) -> bytes:
    """A right VXLAN and Ethernet header, sometimes a right first byte, then noise."""
    return vxlan(b"")[:20] + rng.choice([b"\x08\0\x45", b"\x86\xdd\x60", b"\x08\0"]) + noise(rng)


def nearly_right(rng: random.Random) -> bytes:
    """A packet from elsewhere to us with some bytes changed: whatever its checksums say, its source is not the peer's."""
    packet = bytearray(rng.choice(foreign))
    for _ in range(rng.randrange(0, 4)):
        packet[rng.randrange(22)] ^= 1 << rng.randrange(8)
    return bytes(packet[: rng.randrange(22, len(packet) + 1)])


@pytest.mark.parametrize("make", [noise, nearly_vxlan, nearly_right], ids=lambda make: make.__name__)
@pytest.mark.parametrize("sender", ["peer", "stranger"])
@pytest.mark.parametrize("backend", ["vxlan", "udp"])
def test_nothing_but_drop_counters_moves(backend: str, sender: str, make: Callable[[random.Random], bytes]) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    marker, comes = (vxlan(good_in), good_in) if backend == "vxlan" else (good_in, decrement_ttl(good_in))
    rounds = total // 12 // per_round + 1
    with Edges(backend) as edges:
        source = edges.peer if sender == "peer" else edges.stranger
        sent = 0
        for _ in range(rounds):
            for _ in range(per_round // 5):
                payload = make(rng)
                if payload and rng.random() < 0.2:
                    train = [rng.randbytes(len(payload)) if rng.random() < 0.5 else payload for _ in range(5)]
                    edges.send_train(train, source=source)
                    sent += 5
                else:
                    for _ in range(5):
                        edges.send_underlay(payload, source=source)
                        payload = make(rng)
                        sent += 1
            edges.send_underlay(marker)
            assert edges.recv_tun_until(comes) == []
        edges.forwarder.stop()
        drops = edges.drops()
        assert "receive_socket" not in drops
        assert sum(drops.values()) == sent
        if sender == "stranger":
            assert drops == {"receive_unknown_sender": sent}
        counters = edges.forwarder.counters()
        assert counters["rx_packets"] == counters["tun_writes"] == rounds
        assert counters["tx_packets"] == counters["underlay_sends"] == counters["icmp_sent"] == 0
