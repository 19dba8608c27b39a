"""The same small traffic over every set of offloads, with each off in turn: nothing depends on a kernel feature."""

from __future__ import annotations

import pytest

from dataplane.core import all_offloads
from tests.core.edges import Edges, gso_tcp4, gso_tcp6, gso_udp, vxlan
from tests.core.joined import as_the_host_sees, by_flow
from tests.core.partial import leave_partial, transport_packet
from tests.core.twin.ip import decrement_ttl
from tests.core.twin.segment import cut

sets = [all_offloads, *[all_offloads - {name} for name in sorted(all_offloads)], frozenset()]
names = ["all", *[f"no {name}" for name in sorted(all_offloads)], "none"]


@pytest.mark.parametrize("offloads", sets, ids=names)
@pytest.mark.parametrize("vnet_hdr", [True, False], ids=["vnet_hdr", "plain"])
@pytest.mark.parametrize("backend", ["vxlan", "udp"])
@pytest.mark.parametrize("family", [4, 6])
def test_traffic(family: int, backend: str, vnet_hdr: bool, offloads: frozenset[str]) -> None:
    def hop(packet: bytes) -> bytes:
        return packet if backend == "vxlan" else decrement_ttl(packet)

    overhead = 22 if backend == "vxlan" else 0
    with Edges(backend, offloads=offloads, vnet_hdr=vnet_hdr, family=family) as edges:
        assert edges.forwarder.offloads <= offloads
        for version in (4, 6):
            for is_tcp in (True, False):
                out = [transport_packet(1, 2, version, is_tcp, bytes(size)) for size in (0, 1, 99, 1380)]
                for packet in out:
                    edges.send_tun(packet)
                assert [edges.recv_underlay()[0][overhead:] for _ in out] == [hop(packet) for packet in out]
                train = [transport_packet(2, 1, version, is_tcp, bytes(700), seq=700 * n) for n in range(8)]
                train = train if is_tcp else [train[0]] * 8
                edges.send_train([vxlan(packet) if backend == "vxlan" else packet for packet in train])
                came: list[bytes] = []
                while len(came) < 8:
                    came += as_the_host_sees([edges.recv_tun()])
                assert by_flow(came) == by_flow(hop(packet) for packet in train)
                if vnet_hdr:
                    whole = transport_packet(1, 2, version, is_tcp, bytes(5000))
                    gso_type = gso_udp if not is_tcp else gso_tcp4 if version == 4 else gso_tcp6
                    edges.send_tun(*leave_partial(whole, gso_type=gso_type, gso_size=1000))
                    assert [edges.recv_underlay()[0][overhead:] for _ in range(5)] == [
                        hop(segment) for segment in cut(whole, 1000)
                    ]
        assert edges.drops() == {}


def test_what_the_device_lacks_is_not_used() -> None:
    """Without virtio-net headers nothing can be joined or handed over uncut; USO needs TSO."""
    with Edges("vxlan", vnet_hdr=False) as edges:
        assert edges.forwarder.offloads == {"udp_segment", "udp_gro"}
    with Edges("vxlan", offloads=all_offloads - {"tun_gso"}) as edges:
        assert edges.forwarder.offloads == {"udp_segment", "udp_gro"}
