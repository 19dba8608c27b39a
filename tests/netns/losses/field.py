"""Nodes of ours with a liar, a stranger and a dead peer beside them, and a balance of what was offered, came and was lost."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from dataplane.lab.cluster import Lab
from dataplane.lab.commands import inside_of, wait_for
from dataplane.lab.node import DaemonNode
from dataplane.lab.topology import Place, Pod, underlay_address, underlay_address6
from dataplane.model import LeaseAttrs
from tests.programs import program

stranger_number, dead_number = 9, 100
# The host's own, and what is no packet that was offered.
not_offered = ("send_multicast", "icmp_limited")


class Field:
    """Three nodes: the target, an honest one, and one that lies: a leased peer whose daemon was stopped.

    Attributes:
        version: of the overlay.
        outer: of the underlay: with udp it is IPv4 for both.
    """

    def __init__(self, lab: Lab, version: int) -> None:
        self.lab, self.version = lab, version
        self.backend = str(lab.conf["Backend"]["Type"])
        self._peers: dict[tuple[str, str], dict[str, Any]] = {}
        self.outer = 4 if self.backend == "udp" else version
        self.target, self.honest, self.liar = lab.daemons
        self.stranger = Place(f"{lab.underlay.prefix}-stranger")
        lab.underlay.attach(self.stranger, stranger_number)
        self.liar.stop_daemon()
        data = {"VNI": 1, "VtepMAC": "02:00:00:00:01:00"} if self.backend == "vxlan" else None
        kind = "vxlan" if data else ""
        dead, dead6 = underlay_address(dead_number), underlay_address6(dead_number)
        lab.book.acquire(LeaseAttrs(dead, dead6, kind, data, data))
        wait_for(lambda: self.peer_of(self.target, self.address(dead_number)), 90, "the dead peer's lease")
        # Neighbours are given up after 0.3 s in place of three, and pieces after one.
        neighbours = [f"net/ipv{family}/neigh/eth0/retrans_time_ms=100" for family in (4, 6)]
        self.target.run("sysctl", "-qw", *neighbours, "net/ipv4/ipfrag_time=1", "net/ipv6/ip6frag_time=1")
        self._sinks = [_sink(self.target.pods[0]), _sink(self.honest.pods[0])]

    def close(self) -> None:
        for sink in self._sinks:
            sink.kill()
            sink.wait()
        self.stranger.close()

    def address(self, number: int) -> str:
        return str(underlay_address(number) if self.outer == 4 else underlay_address6(number))

    def peer_of(self, node: DaemonNode, public: str) -> dict[str, Any]:
        """What a node says of the peer at that address; {} if there is none."""
        known = self._peers.get((node.label, public))
        if known:
            return known  # leases do not change here
        for peer in (node.status() or {}).get("peers", ()):
            if peer["public_ip"] == public and ip_network(peer["subnet"]).version == self.version:
                self._peers[node.label, public] = peer
                return dict(peer)
        return {}

    def pod_at(self, public: str) -> str:
        """An address in the subnet of the peer there."""
        return str(ip_network(self.peer_of(self.target, public)["subnet"])[5])

    # Underlay to pod

    def inner(self, source: str = "", destination: str = "", size: int = 64, **fields: object) -> Packet:
        """What a pod of the liar's sends to the target's."""
        source = source or self.pod_at(self.address(3))
        destination = destination or self.target.pods[0].address_of(self.version)
        network = (IP if self.version == 4 else IPv6)(src=source, dst=destination, **fields)
        return network / UDP(sport=7, dport=7) / Raw(bytes(size))

    def wire(self, inner: bytes | Packet, *, vni: int = 1, flags: int = 8, to: str = "", kind: int = 0) -> bytes:
        """The datagram that carries `inner`; the keywords are for vxlan."""
        if self.backend == "udp":
            return bytes(inner)
        own = self.peer_of(self.honest, self.address(1))["vtep_mac"]
        lying = self.peer_of(self.target, self.address(3))["vtep_mac"]
        frame = Ether(dst=to or own, src=lying, type=kind or (0x0800 if self.version == 4 else 0x86DD))
        return bytes(VXLAN(flags=flags, vni=vni) / frame / Raw(bytes(inner)))

    @property
    def device(self) -> str:
        """The target's TUN."""
        return str(self.peer_of(self.target, self.address(2))["device"])

    @property
    def port(self) -> int:
        return 8285 if self.backend == "udp" else 8472

    def send(self, number: int, datagram: bytes, singles: int, trains: int = 0, segments: int = 0) -> int:
        """Send copies to the target from the underlay, the liar (3) or the stranger; returns how many datagrams left."""
        place = self.stranger if number == stranger_number else self.liar
        lines = [f"data {datagram.hex()}"] * singles + [" ".join(["train", *[datagram.hex()] * segments])] * trains
        script = program("attacker", self.outer, self.address(number), self.address(1), self.port)
        words = inside_of(place.name, script)
        done = subprocess.run(words, input="\n".join(lines), capture_output=True, text=True, check=True, timeout=200)
        return int(done.stdout)

    def send_raw(self, packets: list[Packet]) -> None:
        """Send IP packets from the liar's eth0 to the target's."""
        macs = [each.run("cat", "/sys/class/net/eth0/address").stdout.strip() for each in (self.target, self.liar)]
        lines = "\n".join(bytes(Ether(dst=macs[0], src=macs[1]) / packet).hex() for packet in packets)
        words = inside_of(self.liar.name, program("raw_frames", "eth0"))
        subprocess.run(words, input=lines, text=True, check=True, timeout=200)

    # Pod to underlay

    def offer(self, address: str, count: int, segments: int = 1, size: int = 100, ttl: int = 64, grow: int = 0) -> int:
        """Send datagrams from the target's pod, `segments` in one super-packet, each longer by `grow`; returns how many."""
        self.target.pods[0].run(*program("offers", "send", address, count, size, segments, ttl, grow))
        return count

    def frames(self, count: int, packet: bytes | Packet, vnet: bytes = bytes(10)) -> int:
        """Send packets straight to the target's device; returns how many."""
        self.target.run(*program("offers", "frames", self.device, count, vnet.hex(), bytes(packet).hex()))
        return count

    # The balance

    def delivered(self) -> int:
        """Datagrams that came to pods."""
        return sum(_in_errors(sink.pid, self.version) for sink in self._sinks)

    def lost(self) -> Counter[str]:
        """What target and honest node counted as lost, by reason."""
        counted: Counter[str] = Counter()
        for node in (self.target, self.honest):
            status = node.status() or {}
            counted.update(status["drops"])
            counted.update(status["host_drops"])
        return counted

    def balance(self, offer: Callable[[], int], ignored: tuple[str, ...] = not_offered) -> tuple[int, dict[str, int]]:
        """Offer, and wait until each packet is delivered or counted; returns how many were delivered, and lost by reason."""
        came, before = self.delivered(), self.lost()
        offered = offer()

        def ended() -> dict[str, int]:
            lost = {reason: n for reason, n in (self.lost() - before).items() if reason not in ignored}
            return {"delivered": self.delivered() - came, **lost}

        def all_ended() -> bool:
            return sum(ended().values()) >= offered

        try:
            wait_for(all_ended, 90, f"{offered} packets to be delivered or counted")
        except BaseException:
            print("ended:", ended())
            raise
        found = ended()
        assert sum(found.values()) == offered, found
        return found.pop("delivered"), found


@contextmanager
def standing(lab: Lab, version: int) -> Iterator[Field]:
    """The field of a lab that is started here, and removed with it."""
    with lab:
        lab.start("dataplane", "dataplane", "dataplane")
        made = Field(lab, version)
        try:
            yield made
        finally:
            print(lab.logs(lines=60))
            made.close()


@contextmanager
def standing_still(node: DaemonNode) -> Iterator[None]:
    """The daemon does nothing meanwhile."""
    status = node.status()
    assert status is not None
    os.kill(status["pid"], signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(status["pid"], signal.SIGCONT)


def _sink(pod: Pod) -> subprocess.Popen[str]:
    process = subprocess.Popen(inside_of(pod.name, program("offers", "sink")), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _in_errors(pid: int, version: int) -> int:
    """What the UDP of that process's namespace discarded."""
    if version == 6:
        lines = Path(f"/proc/{pid}/net/snmp6").read_text().splitlines()
        return int(dict(line.split() for line in lines)["Udp6InErrors"])
    names, values = (
        line.split() for line in Path(f"/proc/{pid}/net/snmp").read_text().splitlines() if line.startswith("Udp:")
    )
    return int(dict(zip(names, values, strict=True))["InErrors"])
