"""Both wire formats: what stands in the payload of the outer UDP datagram.

udp is flannel's own: the inner IP packet and nothing else (flannel pkg/backend/udp). vxlan is RFC 7348 section 5 as
the Linux device speaks it. What must stay true: every bit that is no field must be zero, as the kernel demands.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.errors import BadInput
from tests.core.twin.ip import IPPacket, IPv4Packet, decode_ip, encode_ip

vxlan_header_bytes, ethernet_header_bytes = 8, 14
vxlan_overhead_bytes = vxlan_header_bytes + ethernet_header_bytes
_i_flag = 0x08
_ethertypes = {4: 0x0800, 6: 0x86DD}


@dataclass(frozen=True, slots=True)
class VxlanDatagram:
    """A VXLAN datagram with an IP packet inside.

    Attributes:
        vni: 24 bits.
        destination_mac, source_mac: of the inner Ethernet header: the two VTEPs under flannel.
        packet: the inner packet.
    """

    vni: int
    destination_mac: bytes
    source_mac: bytes
    packet: IPPacket


def encode_udp(packet: IPPacket) -> bytes:
    """The datagram's payload for flannel's udp backend."""
    return encode_ip(packet)


def decode_udp(datagram: bytes) -> IPPacket:
    """The inner packet of flannel's udp backend. Raises `BadInput`."""
    return decode_ip(datagram)


def encode_vxlan(datagram: VxlanDatagram) -> bytes:
    """VXLAN header, inner Ethernet header, inner packet; no VLAN tag, no FCS (RFC 7348 section 5)."""
    ethertype = _ethertypes[4 if isinstance(datagram.packet, IPv4Packet) else 6]
    vxlan = bytes([_i_flag, 0, 0, 0]) + datagram.vni.to_bytes(3) + b"\0"
    ethernet = datagram.destination_mac + datagram.source_mac + ethertype.to_bytes(2)
    return vxlan + ethernet + encode_ip(datagram.packet)


def decode_vxlan(datagram: bytes) -> VxlanDatagram:
    """Decode a VXLAN datagram. Raises `BadInput` for any reserved bit, other EtherTypes, and a bad inner packet."""
    if len(datagram) < vxlan_overhead_bytes:
        raise BadInput(f"vxlan datagram: {len(datagram)} bytes; at least {vxlan_overhead_bytes} are wanted")
    if datagram[:4] != bytes([_i_flag, 0, 0, 0]) or datagram[7]:
        raise BadInput(f"vxlan header {datagram[:8].hex()}: only the I flag (08000000) and a VNI are allowed")
    inner = datagram[vxlan_overhead_bytes:]
    ethertype = int.from_bytes(datagram[20:22])
    if ethertype not in _ethertypes.values():
        raise BadInput(f"inner Ethernet header, bytes 20-21: type {ethertype:#06x}; 0x0800 or 0x86dd is allowed")
    packet = decode_ip(inner)
    if ethertype != _ethertypes[inner[0] >> 4]:
        raise BadInput(f"inner Ethernet header, bytes 20-21: type {ethertype:#06x} before IP version {inner[0] >> 4}")
    return VxlanDatagram(int.from_bytes(datagram[4:7]), datagram[8:14], datagram[14:20], packet)
