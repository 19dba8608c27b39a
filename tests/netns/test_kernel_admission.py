"""Whom the kernel's vxlan lets in with our filter in front of it: each hostile datagram ends in its own counter."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import inside_of, wait_for
from dataplane.lab.node import DaemonNode
from dataplane.lab.topology import Place, Pod, underlay_address, underlay_address6

stranger_number = 9
versions = pytest.mark.parametrize("version", [4, 6])


@dataclass
class Siege:
    """A target in the kernel datapath, a leased peer that lies, an honest one that is the kernel's, and a stranger."""

    lab: Lab
    stranger: Place

    @property
    def target(self) -> DaemonNode:
        return self.lab.daemons[0]

    @property
    def liar(self) -> DaemonNode:
        return self.lab.daemons[1]

    def macs(self, version: int) -> tuple[str, str]:
        """VTEP MACs of target and liar."""
        device = "flannel.1" if version == 4 else "flannel-v6.1"
        status = self.target.status()
        assert status is not None
        own = self.target.run("cat", f"/sys/class/net/{device}/address").stdout.strip()
        public = str(self.liar.address if version == 4 else self.liar.address6)
        (peer,) = (peer for peer in status["peers"] if peer["public_ip"] == public and peer["device"] == device)
        return own, peer["vtep_mac"]

    def frame(
        self,
        version: int,
        source: str = "",
        destination: str = "",
        *,
        inner: int = 0,
        sender: str = "",
        receiver: str = "",
    ) -> bytes:
        """What a pod of the liar's sends to the target's, over the underlay of `version`, with these changes."""
        own, liars = self.macs(version)
        inner = inner or version
        source = source or self.liar.pods[0].address_of(inner)
        destination = destination or self.target.pods[0].address_of(inner)
        network: Packet = (IP if inner == 4 else IPv6)(src=source, dst=destination)
        frame = Ether(src=sender or liars, dst=receiver or own)
        return bytes(frame / network / UDP(sport=7, dport=7777) / Raw(b"hello"))

    def send(self, place: Place, version: int, datagrams: list[bytes], port: int = 8472) -> None:
        target = self.target.address if version == 4 else self.target.address6
        number = stranger_number if place is self.stranger else 2
        source = underlay_address(number) if version == 4 else underlay_address6(number)
        script = str(Path(__file__).with_name("attacker.py"))
        words = [sys.executable, script, str(version), str(source), str(target), str(port)]
        lines = "\n".join(f"data {datagram.hex()}" for datagram in datagrams)
        subprocess.run(inside_of(place.name, words), input=lines, text=True, check=True, timeout=30)


@pytest.fixture(scope="module")
def siege() -> Iterator[Siege]:
    with Lab(net_conf("vxlan", ipv6=True), options=("--datapath=kernel",)) as lab:
        lab.start("dataplane", "dataplane", "kernel")
        stranger = Place(f"{lab.underlay.prefix}-stranger")
        lab.underlay.attach(stranger, stranger_number)
        try:
            yield Siege(lab, stranger)
        finally:
            print(lab.logs(lines=60))
            stranger.close()


def vxlan(frame: bytes, vni: int = 1, flags: int = 8) -> bytes:
    return bytes(VXLAN(flags=flags, vni=vni)) + frame


def udp_received(pod: Pod, version: int) -> int:
    """Datagrams that came to a port that nobody has."""
    text = pod.run("cat", "/proc/net/snmp" if version == 4 else "/proc/net/snmp6").stdout
    if version == 6:
        return int(dict(line.split() for line in text.splitlines())["Udp6NoPorts"])
    names, values = (line.split() for line in text.splitlines() if line.startswith("Udp:"))
    return int(dict(zip(names, values, strict=True))["NoPorts"])


def expect_dropped(siege: Siege, place: Place, version: int, datagrams: list[bytes], reason: str) -> None:
    before, arrived = Counter(siege.target.drops()), udp_received(siege.target.pods[0], version)
    siege.send(place, version, datagrams)
    wanted = len(datagrams)
    wait_for(lambda: (Counter(siege.target.drops()) - before)[reason] >= wanted, 5, f"{wanted} drops for {reason}")
    assert Counter(siege.target.drops()) - before == {reason: wanted}
    assert udp_received(siege.target.pods[0], version) == arrived


@versions
def test_pods_reach_each_other_and_the_filter_is_told(siege: Siege, version: int) -> None:
    ours, _, kernels = siege.lab.pods
    before = siege.target.drops()
    assert ours.ping(kernels, version, count=5).ok
    assert kernels.ping(ours, version, count=5).ok
    assert siege.target.drops() == before
    status = siege.target.status()
    assert status is not None
    assert status["problems"] == []
    assert [device["admission"] for device in status["devices"]] == ["full", "full"]


@versions
def test_a_leased_peer_that_does_not_lie_is_heard(siege: Siege, version: int) -> None:
    """With a pod's inner source, and with its own underlay address."""
    node_address = str(siege.liar.address if version == 4 else siege.liar.address6)
    before = udp_received(siege.target.pods[0], version)
    siege.send(siege.liar, version, [vxlan(siege.frame(version)), vxlan(siege.frame(version, node_address))])
    wait_for(lambda: udp_received(siege.target.pods[0], version) == before + 2, 5, "both datagrams")


@versions
def test_a_sender_without_a_lease(siege: Siege, version: int) -> None:
    datagrams = [vxlan(siege.frame(version))] * 5
    expect_dropped(siege, siege.stranger, version, datagrams, "receive_unknown_sender")


@versions
@pytest.mark.parametrize("whose", ["target's", "kernel node's", "outside"])
def test_an_inner_source_that_is_not_the_senders(siege: Siege, version: int, whose: str) -> None:
    target, _, kernels = siege.lab.pods
    outside = "8.8.8.8" if version == 4 else "2001:db8:8::8"
    source = {"target's": target.address_of(version), "kernel node's": kernels.address_of(version)}.get(whose, outside)
    expect_dropped(siege, siege.liar, version, [vxlan(siege.frame(version, source))] * 3, "receive_inner_source")


@versions
def test_other_lies_of_a_leased_peer(siege: Siege, version: int) -> None:
    kernels = siege.lab.pods[2].address_of(version)
    group = "224.0.0.5" if version == 4 else "ff02::5"
    own = str(siege.target.address if version == 4 else siege.target.address6)
    stranger_mac = "02:00:00:00:00:99"
    lies = (
        ("receive_inner_destination", vxlan(siege.frame(version, "", kernels))),
        ("receive_inner_destination", vxlan(siege.frame(version, "", own))),
        ("receive_multicast", vxlan(siege.frame(version, "", group))),
        ("receive_inner_mac", vxlan(siege.frame(version, sender=stranger_mac))),
        ("receive_inner_mac", vxlan(siege.frame(version, receiver=stranger_mac))),
        ("receive_vxlan_flags", vxlan(siege.frame(version), flags=0x0C)),
        ("receive_inner_type", vxlan(siege.frame(version)[:12] + b"\x08\x06" + bytes(28))),
        ("receive_short", vxlan(siege.frame(version)[:20])),
        ("receive_inner_source", vxlan(siege.frame(version, inner=10 - version))),
    )
    for reason, datagram in lies:
        expect_dropped(siege, siege.liar, version, [datagram] * 2, reason)


@versions
def test_other_tunnels_are_left_alone(siege: Siege, version: int) -> None:
    """A stranger's frame comes out of another device with another VNI, or on another port."""
    local = siege.target.address if version == 4 else siege.target.address6
    for name, vni, port in (("other-vni", 77, 8472), ("other-port", 1, 4789)):
        siege.target.batch(
            f"link add {name} type vxlan id {vni} dev eth0 local {local} dstport {port} nolearning",
            f"link set {name} up",
        )
        try:
            siege.send(siege.stranger, version, [vxlan(siege.frame(version), vni)] * 3, port)

            def packets(name: str = name) -> int:
                return int(siege.target.run("cat", f"/sys/class/net/{name}/statistics/rx_packets").stdout)

            wait_for(lambda: packets() == 3, 5, f"three frames at {name}")
        finally:
            siege.target.batch(f"link delete {name}")


@versions
def test_the_filter_outlives_the_daemon_and_a_restart(siege: Siege, version: int) -> None:
    """While there is no daemon a stranger is kept out and the peers are let in, and so with the next one."""
    ours, _, kernels = siege.lab.pods
    arrived = udp_received(siege.target.pods[0], version)
    hostile = [vxlan(siege.frame(version))] * 3
    siege.target.stop_daemon()
    siege.send(siege.stranger, version, hostile)
    assert kernels.ping(ours, version, count=3).ok
    assert udp_received(siege.target.pods[0], version) == arrived
    siege.target.start_daemon()
    siege.target.wait_ready()
    assert kernels.ping(ours, version, count=3).ok
    expect_dropped(siege, siege.stranger, version, [vxlan(siege.frame(version))] * 3, "receive_unknown_sender")
