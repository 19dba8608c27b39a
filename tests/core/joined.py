"""What a super-packet that was joined stands for: the packets that the host sees, flow by flow."""

from __future__ import annotations

from collections.abc import Iterable

from tests.core.edges import Offload, gso_tcp4, gso_tcp6, gso_udp, needs_csum
from tests.core.streams import flow_key, without_free_id
from tests.core.twin.segment import cut, finish_partial

gso_types = {gso_udp, gso_tcp4, gso_tcp6}


def as_the_host_sees(writes: Iterable[tuple[Offload, bytes]]) -> list[bytes]:
    """The packets on the wire that a TUN write stands for."""
    packets: list[bytes] = []
    for offload, data in writes:
        if offload.gso_type:
            assert offload.gso_type in gso_types
            assert offload.flags == needs_csum
            packets += cut(data, offload.gso_size)
        elif offload.flags:
            assert offload.flags == needs_csum
            packets.append(finish_partial(data, offload.csum_start, offload.csum_offset))
        else:
            packets.append(data)
    return packets


def by_flow(packets: Iterable[bytes]) -> dict[tuple[object, ...], list[bytes]]:
    """Each flow's packets in order, with the fragments among them."""
    packets = list(packets)
    keys = {flow_key(packet) for packet in packets}
    return {key: [without_free_id(packet) for packet in packets if flow_key(packet) in (key, ())] for key in keys}
