"""Other shapes in which a pod may send encapsulation: what leaves the node of each, by each mechanism, with conntrack and without."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, PadN
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from dataplane.host import command
from dataplane.host.admission.senders_iptables import IptablesSenders
from dataplane.host.firewall.rules import Encap
from dataplane.keepers import firewall, senders
from dataplane.keepers.firewall import Firewall
from dataplane.keepers.senders import Senders
from dataplane.lab.commands import run
from dataplane.model import VxlanLink
from dataplane.observe.state import NodeState
from tests.host.firewall.places import Network, deadline_s, isolated, kinds, make_firewall, run_body
from tests.programs import program

_sources = (
    "c6336407",
    "fd020000000000000000000000000007",
    "0af40702",
)  # the peer's addresses, as forged, and the pod's
# What arrives of these, as IP packets in hex.
_sniff = """
import socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
sock.bind(("eth0", 3))
print("ready", flush=True)
while True:
    frame, address = sock.recvfrom(65536)
    if address[2] != 4 and any(source in frame for source in map(bytes.fromhex, sys.argv[1:])):
        print(frame[14:].hex(), flush=True)
"""
_marker = b"this came last"


class Pod:
    """The pod as an attacker, and what it gets out of its node."""

    def __init__(self, net: Network) -> None:
        self._net = net
        self._macs = [_mac(net.pod.name, "eth0"), _mac(None, "pod0")]
        self._seen: asyncio.StreamReader

    async def watch(self) -> None:
        words = ("ip", "netns", "exec", self._net.outside.name, sys.executable, "-c", _sniff, *_sources)
        process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE, limit=1 << 20)
        assert process.stdout is not None and await process.stdout.readline() == b"ready\n"
        self._seen = process.stdout

    async def left(self, *packets: Packet) -> list[bytes]:
        """Send IP packets, tagged ones too; return those that left the node for outside."""
        # One of each version comes last, on the same ways: whatever had slipped through would be there before.
        last = [
            IP(src="10.244.7.2", dst="192.0.2.9") / UDP(sport=1, dport=9997) / Raw(_marker),
            IPv6(src="fd02::7", dst="fd01::9") / UDP(sport=1, dport=9997) / Raw(_marker),
        ]
        frames = [bytes(Ether(src=self._macs[0], dst=self._macs[1]) / packet) for packet in (*packets, *last)]
        # On one processor, or they overtake each other.
        words = ("taskset", "-c", str(min(os.sched_getaffinity(0))), *program("raw_frames", "eth0"))
        run(self._net.pod.name, *words, given="\n".join(frame.hex() for frame in frames))
        found: list[bytes] = []
        while sum(_marker in packet for packet in found) < len(last):
            line = await asyncio.wait_for(self._seen.readline(), deadline_s)
            found.append(bytes.fromhex(line.decode()))
        return [packet for packet in found if _marker not in packet]


def _mac(namespace: str | None, device: str) -> str:
    (link,) = json.loads(run(namespace, "ip", "-j", "link", "show", device).stdout)
    return str(link["address"])


async def besieged(kind: str) -> tuple[Pod, Firewall, NodeState]:
    net = Network()
    net.add_ipv6()
    wall, state = make_firewall(kind, masquerade=False, forward=False, ipv6=True, encap=Encap(8472, "eth0"))
    await wall.open()
    pod = Pod(net)
    for address in ("192.0.2.9", "fd01::9"):
        net.pod.run("ping", "-qc1", "-W30", address)  # the neighbours are known
    await pod.watch()
    return pod, wall, state


def track() -> None:
    """Something on this node wants conntrack, which joins fragments before they are forwarded."""
    for family in ("ip", "ip6"):
        rule = (
            f"table {family} tracks {{ chain c {{ type filter hook prerouting priority 0; ct state new counter; }}; }}"
        )
        run(None, "nft", "-f", "-", given=rule)


async def dropped(wall: Firewall, state: NodeState, expected: int) -> None:
    """Wait for the count, which is not taken at every question."""
    async with asyncio.timeout(deadline_s):
        while state.drops()["forged_encap"] != expected:
            await wall.count()
            await asyncio.sleep(0.05)


peer4 = {"src": "198.51.100.7", "dst": "192.0.2.9"}
peer6 = {"src": "fd02::7", "dst": "fd01::9"}
forged = UDP(sport=5, dport=8472) / Raw(b"\x08" + bytes(60))


def pieces4(size: int) -> list[Packet]:
    data = bytes(IP(**peer4) / forged)[20:]
    header = {**peer4, "id": 9, "proto": 17}
    return [
        IP(**header, flags="MF" if at + size < len(data) else 0, frag=at // 8) / Raw(data[at : at + size])
        for at in range(0, len(data), size)
    ]


def pieces6(size: int, before: bytes = b"") -> list[Packet]:
    """`before`: extension headers, destination options if anything, in front of the UDP header."""
    data = before + bytes(IPv6(**peer6) / forged)[40:]
    kind = 60 if before else 17
    return [
        IPv6(**peer6)
        / IPv6ExtHdrFragment(nh=kind, m=at + size < len(data), offset=at // 8, id=7)
        / Raw(data[at : at + size])
        for at in range(0, len(data), size)
    ]


def is_first(piece: bytes) -> bool:
    if piece[0] >> 4 == 4:
        return int.from_bytes(piece[6:8]) & 0x1FFF == 0
    return int.from_bytes(piece[42:44]) >> 3 == 0


@isolated(*kinds)
async def test_the_first_piece_never_leaves(kind: str) -> None:
    """Without it the others come to nothing; conntrack joins them, and nothing leaves."""
    pod, _, _ = await besieged(kind)
    one, long, two = (
        bytes((17, 0, 1, 4)) + bytes(4),
        bytes((17, 1, 1, 12)) + bytes(12),
        bytes((60, 0, 1, 4)) + bytes(4),
    )
    shapes = [pieces4(8), pieces4(32), pieces6(8), pieces6(32), pieces6(8, one), pieces6(8, long)]
    if kind != "iptables-nft":  # there a first piece that ends before its last extension header leaves
        shapes.append(pieces6(8, two + one))
    for pieces in shapes:
        assert not any(is_first(piece) for piece in await pod.left(*pieces))
    honest = [IPv6(**peer6) / IPv6ExtHdrFragment(nh=nh, m=1, id=8) / Raw(bytes(48)) for nh in (6, 58)]
    honest.append(IPv6(**peer6) / IPv6ExtHdrFragment(m=1, id=8) / UDP(sport=5, dport=53) / Raw(bytes(48)))
    assert len(await pod.left(*honest)) == 3
    track()
    for pieces in shapes:
        assert await pod.left(*pieces) == []


@isolated(*kinds)
async def test_other_shapes(kind: str) -> None:
    pod, wall, state = await besieged(kind)
    padding = PadN(optdata=bytes(4))
    own4, own6 = {**peer4, "dst": "192.0.2.1"}, {**peer6, "dst": "fd01::1"}
    shapes = [
        IPv6(**peer6) / IPv6ExtHdrDestOpt(options=[padding]) / forged,
        IPv6(**peer6) / IPv6ExtHdrHopByHop(options=[padding]) / IPv6ExtHdrDestOpt() / forged,
        Dot1Q(vlan=0) / IP(**peer4) / forged,  # a priority tag is as none
        # To the node itself, with the source of a peer; what everybody hears it hears too.
        *(header / forged for header in (IP(**own4), IPv6(**own6))),
        *(IP(src="192.0.2.9", dst=address) / forged for address in ("255.255.255.255", "10.244.7.255", "224.0.0.1")),
        IPv6(src="fe80::7", dst="ff02::1") / forged,
    ]
    assert await pod.left(*shapes) == []
    await dropped(wall, state, len(shapes))
    assert await pod.left(Dot1Q(vlan=5) / IP(**peer4) / forged) == []  # nobody here takes that
    await dropped(wall, state, len(shapes))
    # No UDP socket hears UDP-Lite, and so no tunnel does.
    assert len(await pod.left(IP(**peer4, proto=136) / Raw(bytes(forged)))) == 1
    # A Service whose endpoint is a peer's port, or our own.
    service = "chain c { type nat hook prerouting priority dstnat; ip daddr 10.96.0.1 udp dport { 53, 54 } dnat to"
    run(None, "nft", "-f", "-", given=f"table ip nat1 {{ {service} 192.0.2.9:8472; }}; }}")
    assert await pod.left(IP(**{**peer4, "dst": "10.96.0.1"}) / UDP(sport=5, dport=53) / Raw(bytes(60))) == []
    run(None, "nft", "-f", "-", given=f"delete table ip nat1\ntable ip nat2 {{ {service} 192.0.2.1:8472; }}; }}")
    assert await pod.left(IP(**{**peer4, "dst": "10.96.0.1"}) / UDP(sport=5, dport=54) / Raw(bytes(60))) == []
    await dropped(wall, state, len(shapes) + 2)


@isolated("iptables-nft", "iptables-legacy")
async def test_an_accept_before_ours_is_overtaken(kind: str) -> None:
    """In filter it comes later anyway; in mangle our jump is put before it again, once."""
    pod, wall, state = await besieged(kind)
    for tool in ("iptables", "ip6tables"):
        run(None, tool, "-I", "FORWARD", "-j", "ACCEPT")
        run(None, tool, "-t", "mangle", "-I", "FORWARD", "-j", "ACCEPT")
    assert await wall.ensure() is True
    assert await pod.left(IP(**peer4) / forged, IPv6(**peer6) / forged) == []
    await dropped(wall, state, 2)
    assert await wall.ensure() is False
    listed = run(None, "iptables", "-t", "mangle", "-S", "FORWARD").stdout.splitlines()
    assert [line.split()[-1] for line in listed[1:]] == ["DATAPLANE-ENCAP-FWD", "ACCEPT"]


@isolated("iptables-nft", "iptables-legacy", "nftables")
async def test_rules_of_the_other_form_of_iptables_go(kind: str) -> None:
    """`iptables` meant the other one in an earlier life: its chains would go on dropping by what was true then."""
    forms = ["nft", "legacy"] if kind == "iptables-legacy" else ["legacy", "nft"]
    link = VxlanLink("flannel.1", 1, 8472, IPv4Address("192.0.2.1"), "eth0", 1450)
    path = os.environ["PATH"]

    def use(form: str) -> None:
        tools = Path(f"/run/{form}")
        tools.mkdir(exist_ok=True)
        for name in ("iptables", "ip6tables"):
            for suffix in ("", "-restore", "-save"):
                if not (tools / f"{name}{suffix}").exists():
                    (tools / f"{name}{suffix}").symlink_to(f"/usr/sbin/{name}-{form}{suffix}")
        os.environ["PATH"] = command._path = f"{tools}:{path}"

    def left(form: str) -> list[str]:
        lines = [
            line
            for version in ("ip", "ip6")
            for table in ("mangle", "filter", "nat")
            for line in run(None, f"/usr/sbin/{version}tables-{form}-save", "-t", table).stdout.splitlines()
        ]
        return [line for line in lines if "DATAPLANE" in line or "FLANNEL" in line or "DP-" in line]

    for remove in (False, True):
        use(forms[0])
        old, _ = make_firewall("iptables", ipv6=True, encap=Encap(8472, "eth0"))
        await old.open()
        await IptablesSenders(link).apply({"192.0.2.77"})
        assert left(forms[0])
        use(forms[1])
        if remove:
            await firewall.remove()
            assert await senders.remove("flannel.1")
        else:
            new, _ = make_firewall(kind, ipv6=True, encap=Encap(8472, "eth0"))
            await new.open()
            made = Senders(link, {}, NodeState())
            await made.ensure()
            assert made.means == "nftables"
        assert left(forms[0]) == []
        assert bool(left(forms[1])) is (not remove and kind != "nftables")


if __name__ == "__main__":
    run_body()
