"""Write the seeds that fuzz_receive's kept corpus grew from: one sound packet of each kind, alone and as a train.

For fuzz_forwarder, some lives that chance takes long to find: in one flow, packets that join, around one that must not.

Usage: seed.py DIRECTORY udp|vxlan|forwarder. After fuzzing, minimise with `fuzz_receive_X -merge=1 corpus_receive_X build/fuzz/found_receive_X`.
"""

import sys
from pathlib import Path

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_RA,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrRouting,
    IPv6ExtHdrSegmentRouting,
    PadN,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw


def pseudo_sum(length: int) -> int:
    """What a checksum that was only begun is, for UDP of this length between the two addresses below."""
    total = 0x0A05 + 0x0209 + 0x0A05 + 0x0109 + 17 + length
    return (total & 0xFFFF) + (total >> 16)


ip4 = IP(src="10.5.2.9", dst="10.5.1.9", flags="DF")
ip6 = IPv6(src="fd02::9", dst="fd01::9")
packets = {
    "tcp4": ip4 / TCP(flags="A", seq=1, options=[("Timestamp", (1, 2))]) / Raw(b"x" * 100),
    "tcp4_psh": ip4 / TCP(flags="PA", seq=101) / Raw(b"y" * 20),
    "tcp4_super": ip4 / TCP(flags="A", seq=1) / Raw(b"z" * 2900),
    "udp4": ip4 / UDP(sport=1, dport=2) / Raw(b"x" * 64),
    "udp6": ip6 / UDP(sport=1, dport=2) / Raw(b"x" * 64),
    "tcp6": ip6 / TCP(flags="A", seq=1) / Raw(b"x" * 100),
    "icmp4": ip4 / ICMP() / Raw(b"ping"),
    "icmp6": ip6 / ICMPv6EchoRequest(data=b"ping"),
    "fragment4": IP(src="10.5.2.9", dst="10.5.1.9", flags="MF", frag=3) / Raw(b"f" * 40),
    "fragment6": ip6 / IPv6ExtHdrFragment(offset=1, m=1) / Raw(b"f" * 40),
    "options6": ip6 / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2) / Raw(b"o" * 16),
    "routing6": ip6
    / IPv6ExtHdrRouting(addresses=["fd01::7", "fd01::8"], segleft=1)
    / UDP(sport=1, dport=2)
    / Raw(b"r" * 16),
    "routing6_mobile": ip6
    / IPv6ExtHdrRouting(type=2, addresses=["fd01::8"], segleft=1)
    / UDP(sport=1, dport=2)
    / Raw(b"m"),
    "routing6_rpl": ip6
    / IPv6ExtHdrRouting(type=3, addresses=["fd01::8"], segleft=1)
    / UDP(sport=1, dport=2)
    / Raw(b"r"),
    "routing6_segments": ip6
    / IPv6ExtHdrSegmentRouting(addresses=["fd01::7", "fd01::8"], segleft=1)
    / UDP(sport=1, dport=2)
    / Raw(b"s" * 16),
    "long_super6": ip6
    / IPv6ExtHdrDestOpt(len=8, options=[PadN(optdata=b"p" * 68)])
    / TCP(flags="A", seq=1)
    / Raw(b"l" * 2900),
    "long_super_udp6": ip6
    / IPv6ExtHdrDestOpt(len=8, options=[PadN(optdata=b"p" * 68)])
    / UDP(sport=1, dport=2)
    / Raw(b"l" * 2900),
    "no_icmp4": IP(src="10.5.2.9", dst="10.5.1.9", proto=58) / Raw(b"\5"),
    "no_icmp6": IPv6(src="fd02::9", dst="fd01::9", nh=1) / Raw(b"\x86"),
    "udp4_short": ip4 / UDP(sport=1, dport=2, len=12, chksum=0) / Raw(b"x" * 64),
    "udp4_begun": IP(src="10.5.2.9", dst="10.5.1.9", flags="DF", id=1)
    / UDP(sport=1, dport=2, len=12, chksum=pseudo_sum(12))
    / Raw(b"x" * 64),
    "ra": ip6 / ICMPv6ND_RA(),
    "ttl1": IP(src="10.5.2.9", dst="10.5.1.9", ttl=1) / UDP() / Raw(b"t"),
}

# A train of one packet from the peer behind hop 0, the next step to follow at once: IPv4 with DF, 100 bytes, TCP and UDP.
train = bytes([0x84, 0, 0])
joins = train + bytes([0x40, 0, 0, 100])
joins_udp = train + bytes([0x42, 0, 0, 100])
odd_ones = {
    "ack": train + bytes([0x40, 0, 0, 0]),
    "fin": train + bytes([0x40, 3, 0, 50]),
    "cwr": train + bytes([0x40, 4, 0, 100]),
    "options": train + bytes([0x40, 0x80, 0, 100]),
    "super": train + bytes([0x40, 0, 0xC2, 0]),
}
# UDP that nobody cut is told by its segments' size.
super_udp = bytes([0x84, 0x10, 0, 0x42, 0, 0xC2, 0, 0x02, 0xE7])


# Super-packets of TCP to the peer behind hop 0, each with a waking; sent again; more than three seconds, more than ten minutes.
probe = bytes([0x00, 1, 5, 0, 0x40, 0, 0xC4, 0])
again = bytes([0x00, 1, 5, 0, 0xC0, 0, 0xC4, 0])
seconds, minutes = bytes([0x8F, 2, 0]), bytes([0x8F, 3, 0])
lives = {f"joins_around_{name}": joins * 2 + odd + joins * 2 for name, odd in odd_ones.items()} | {
    "joins_around_super_udp": joins_udp * 2 + super_udp + joins_udp * 2,
    "refuses_super": probe + again + seconds + probe + again + probe + seconds + probe + minutes + probe,
    # More packets without payload than runs wait for their write.
    "many_runs": bytes([0x84, 15, 0x10, 0x40, 0, 0, 0]) * 6,
}


def write_lives(directory: Path) -> None:
    for name, steps in lives.items():
        (directory / name).write_bytes(bytes([0xFF, 1, 0, 0]) + steps)


directory, wire = Path(sys.argv[1]), sys.argv[2]
directory.mkdir(parents=True, exist_ok=True)
if wire == "forwarder":
    write_lives(directory)
    sys.exit()
for name, packet in packets.items():
    inner = bytes(packet)
    if wire == "vxlan":
        inner = bytes.fromhex("0800000000000100") + bytes(
            Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02", type=0x86DD if IPv6 in packet else 0x0800)
            / Raw(inner)
        )
    for offloads in (0, 31):
        (directory / f"{name}_{offloads}").write_bytes(bytes([offloads, 1, 0, 0]) + inner)
    if len(inner) < 300:
        (directory / f"{name}_train").write_bytes(
            bytes([31, 0]) + len(inner).to_bytes(2, "big") + inner * 3 + inner[:70]
        )
