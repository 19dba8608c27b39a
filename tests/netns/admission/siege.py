"""A target in the kernel datapath and who may harm it, for tests of what is let in."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
from tests.programs import program
from tests.traffic import udp_counter

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

    def send_raw(self, place: Place, packets: list[Packet]) -> None:
        """Send IP packets to the target's eth0, whatever their destination is."""
        macs = [each.run("cat", "/sys/class/net/eth0/address").stdout.strip() for each in (self.target, place)]
        lines = "\n".join(bytes(Ether(dst=macs[0], src=macs[1]) / packet).hex() for packet in packets)
        words = program("raw_frames", "eth0")
        subprocess.run(inside_of(place.name, words), input=lines, text=True, check=True, timeout=200)

    def send(
        self, place: Place, version: int, datagrams: list[bytes], port: int = 8472, *, train: bool = False
    ) -> None:
        target = self.target.address if version == 4 else self.target.address6
        number = stranger_number if place is self.stranger else 2
        source = underlay_address(number) if version == 4 else underlay_address6(number)
        words = program("attacker", version, source, target, port)
        lines = "\n".join(f"data {datagram.hex()}" for datagram in datagrams)
        if train:
            lines = " ".join(["train", *(datagram.hex() for datagram in datagrams)])
        subprocess.run(inside_of(place.name, words), input=lines, text=True, check=True, timeout=200)


@contextmanager
def besieged() -> Iterator[Siege]:
    """A cluster of ours, ours and the kernel's own, and the stranger."""
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
    return udp_counter(pod, version, "NoPorts")


def refused(node: DaemonNode) -> Counter[str]:
    """What the filter dropped, by reason; the firewall's count, which is looked at now and then, is not the matter."""
    drops = wait_for(node.status, 90, "the status")["drops"]
    return Counter({reason: count for reason, count in drops.items() if count and reason.startswith("receive_")})


def expect_dropped(
    siege: Siege, place: Place, version: int, datagrams: list[bytes] | list[Packet], reason: str
) -> None:
    """All of them (whole IP packets, or what UDP carries) end in this one counter, and no pod gets anything."""
    before, arrived = refused(siege.target), udp_received(siege.target.pods[0], version)
    packets = [each for each in datagrams if isinstance(each, Packet)]
    siege.send_raw(place, packets)
    siege.send(place, version, [each for each in datagrams if isinstance(each, bytes)])
    wanted = len(datagrams)
    wait_for(lambda: (refused(siege.target) - before)[reason] >= wanted, 90, f"{wanted} drops for {reason}")
    assert refused(siege.target) - before == {reason: wanted}
    assert udp_received(siege.target.pods[0], version) == arrived


def outer(siege: Siege, version: int, number: int, destination: object = None, **fields: object) -> Packet:
    """The underlay's IP header, from node `number` to the target."""
    own = siege.target.address if version == 4 else siege.target.address6
    source = underlay_address(number) if version == 4 else underlay_address6(number)
    return (IP if version == 4 else IPv6)(src=str(source), dst=str(destination or own), **fields)


def expect_other_tunnels_left_alone(siege: Siege, version: int) -> None:
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

            wait_for(lambda: packets() == 3, 90, f"three frames at {name}")
        finally:
            siege.target.batch(f"link delete {name}")


def expect_it_outlives_the_daemon(siege: Siege, version: int) -> None:
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
