"""Super-packets to cut, and some that nobody may ask for."""

from __future__ import annotations

from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Packet, Raw

from tests.core.edges import Offload, gso_ecn, gso_tcp4, gso_tcp6, gso_udp
from tests.core.packets import good_out

tcp_options = st.lists(
    st.sampled_from([("Timestamp", (1, 2)), ("NOP", None), ("SAck", (1, 2)), ("MSS", 1400)]), max_size=3
)
# What a host's stack may set on data that it hands over uncut: ACK always, then FIN, PSH, ECE, CWR, URG.
tcp_flags = st.sets(st.sampled_from("FPECU")).map(lambda some: "A" + "".join(sorted(some)))


@st.composite
def super_packets(draw: st.DrawFn) -> tuple[bytes, int, int]:
    """A whole packet, its GSO type and the payload of a segment; at most 40 segments, the MTU kept."""
    version, is_tcp = draw(st.sampled_from([4, 6])), draw(st.booleans())
    if version == 4:
        ip: Packet = IP(
            src="10.5.1.9",
            dst="10.5.2.9",
            id=draw(st.integers(0, 65535)),
            flags=draw(st.sampled_from(["", "DF"])),
            ttl=draw(st.integers(2, 255)),
            tos=draw(st.integers(0, 255)),
            options=[IPOption_NOP()] * draw(st.sampled_from([0, 4])),
        )
    else:
        ip = IPv6(src="fd05:1::9", dst="fd05:2::9", hlim=draw(st.integers(2, 255)), fl=draw(st.integers(0, 2**20 - 1)))
        if draw(st.integers(0, 4)) == 0:
            ip = ip / IPv6ExtHdrDestOpt()
    port = st.integers(1, 65535)
    transport: Packet = UDP(sport=draw(port), dport=draw(port))
    if is_tcp:
        transport = TCP(
            sport=draw(port),
            dport=draw(port),
            seq=draw(st.integers(0, 2**32 - 1)),
            ack=draw(st.integers(0, 2**32 - 1)),
            window=draw(st.integers(0, 65535)),
            flags=draw(tcp_flags),
            options=draw(tcp_options),
        )
    gso_size = draw(st.one_of(st.integers(8, 64), st.integers(64, 1300)))
    length = draw(st.integers(1, min(gso_size * 40, 60000)))
    payload = draw(st.randoms(use_true_random=False)).randbytes(length)
    gso_type = gso_udp if not is_tcp else gso_tcp4 if version == 4 else gso_tcp6
    if is_tcp and "C" in str(transport.flags):
        gso_type |= gso_ecn
    return bytes(ip / transport / Raw(payload)), gso_type, gso_size


tcp4 = bytes(IP(src="10.5.1.9", dst="10.5.2.9", flags="DF") / TCP(flags="A") / Raw(bytes(3000)))
udp4 = bytes(IP(src="10.5.1.9", dst="10.5.2.9", flags="DF") / UDP() / Raw(bytes(3000)))
bare = bytes(IP(src="10.5.1.9", dst="10.5.2.9") / TCP(flags="A"))
icmp = bytes(IP(src="10.5.1.9", dst="10.5.2.9", proto=1) / Raw(bytes(100)))
# Each with the number of packets that it would have been.
impossible = {
    "gso type 2 is none": (tcp4, Offload(1, 2, 40, 1000, 20, 16), 3),
    "UFO is another thing": (udp4, Offload(1, 3, 28, 1000, 20, 6), 3),
    "TCP type on UDP": (udp4, Offload(1, gso_tcp4, 28, 1000, 20, 6), 3),
    "UDP type on TCP": (tcp4, Offload(1, gso_udp, 40, 1000, 20, 16), 3),
    "TCP type on ICMP": (icmp, Offload(1, gso_tcp4, 28, 50, 20, 2), 1),
    "segments of 0 bytes": (tcp4, Offload(1, gso_tcp4, 40, 0, 20, 16), 1),
    "segments of 7 bytes": (tcp4, Offload(1, gso_tcp4, 40, 7, 20, 16), 429),
    # The kernel makes no crumbs; a pod with a raw device could stop everybody else's traffic with them.
    "129 datagrams": (udp4, Offload(1, gso_udp, 28, 23, 20, 6), 131),
    "nothing to cut": (bare, Offload(1, gso_tcp4, 40, 1000, 20, 16), 1),
    "checksum behind the packet": (good_out, Offload(1, 0, 0, 0, 20, len(good_out) - 21), 1),
    "checksum start behind the packet": (good_out, Offload(1, 0, 0, 0, 65535, 65535), 1),
    "checksum inside the IP header": (good_out, Offload(1, 0, 0, 0, 0, 10), 1),
}
