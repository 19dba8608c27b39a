"""The forwarding table: longest prefix against a slow twin, changes under traffic, 10,000 peers, slots and their counters."""

from __future__ import annotations

import threading
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.core import max_peers
from dataplane.errors import CoreError
from dataplane.model import IPAddress, IPNetwork, Peer, PeerCounters
from tests.core.edges import Edges, all_peers, peer_mac, vxlan
from tests.core.packets import examples, good_in, good_out, inward, outward
from tests.core.twin.icmp import net_unreachable

hop = ip_address("127.0.0.2")

# Few bits vary, so that prefixes nest and addresses hit them.
_bits4 = st.integers(0, 255).map(lambda n: 0x0A640000 | (n & 0xF0) << 20 | n & 0x0F)
_bits6 = st.integers(0, 255).map(lambda n: 0x20010DB8 << 96 | (n & 0xF0) << 60 | (n & 0x0F))
_nets4 = st.builds(lambda bits, length: IPv4Network((bits, length), strict=False), _bits4, st.integers(0, 32))
_nets6 = st.builds(lambda bits, length: IPv6Network((bits, length), strict=False), _bits6, st.integers(0, 128))
_addresses = st.one_of(_bits4.map(IPv4Address), _bits6.map(IPv6Address))


def longest_match(table: list[Peer], address: IPAddress) -> Peer | None:
    """The slow twin: look at every prefix."""
    holds = [peer for peer in table if address.version == peer.prefix.version and address in peer.prefix]
    return max(holds, key=lambda peer: peer.prefix.prefixlen, default=None)


def number_mac(number: int) -> bytes:
    return b"\x06" + number.to_bytes(5)


@examples(120)
@given(
    st.lists(st.one_of(_nets4, _nets6), unique=True, max_size=30),
    st.sets(st.integers(0, 29)),
    st.lists(_addresses, min_size=1, max_size=30),
)
def test_the_longest_prefix_wins(
    plain_edges: Edges, nets: list[IPNetwork], local: set[int], addresses: list[IPAddress]
) -> None:
    """Each packet leaves with the MAC of the peer that the twin finds, or not at all."""
    edges = plain_edges
    table = [Peer(net, None if at in local else hop, number_mac(at)) for at, net in enumerate(nets)]
    edges.forwarder.update(table, list(edges.forwarder.peers))
    edges.forwarder.update([Peer(ip_network("10.5.2.9/32"), hop, peer_mac)])
    for address in addresses:
        version = address.version
        found = longest_match(table, address)
        # The source is a group, so that nobody is answered; the destination is what is looked up.
        packet = bytes(outward(version, dst=str(address), src="224.0.0.1" if version == 4 else "ff02::1"))
        carried = found is not None and found.next_hop is not None
        with edges.expect_drops(**({} if carried else {"send_no_route": 1})):
            edges.send_tun(packet)
            edges.send_tun(good_out)
            came = edges.recv_underlay()[0]
            if carried:
                assert found is not None
                assert came[8:14] == found.vtep_mac
                assert came[22:] == packet
                came = edges.recv_underlay()[0]
            assert came[22:] == good_out


@pytest.fixture(scope="module")
def plain_edges() -> object:
    with Edges("vxlan") as edges:
        yield edges


def test_replaced_under_traffic(vxlan_edges: Edges) -> None:
    """While 10.5.2.0/24 changes its MAC again and again, no packet is lost, and none sees anything but old or new."""
    macs = [number_mac(1), number_mac(2)]
    net = ip_network("10.5.2.0/24")
    vxlan_edges.forwarder.update([Peer(net, hop, macs[0])])
    done = threading.Event()

    def change() -> None:
        for index in range(400):
            vxlan_edges.forwarder.update([Peer(net, hop, macs[index % 2])])
        done.set()

    before = vxlan_edges.forwarder.counters()["table_changes"]
    changer = threading.Thread(target=change)
    changer.start()
    seen: set[bytes] = set()
    packet = bytes(outward())
    with vxlan_edges.expect_drops():
        while not done.is_set() or seen != set(macs):
            for _ in range(16):
                vxlan_edges.send_tun(packet)
            for _ in range(16):
                payload = vxlan_edges.recv_underlay()[0]
                assert payload[22:] == packet
                seen.add(payload[8:14])
            if done.is_set() and seen != set(macs):
                vxlan_edges.forwarder.update([Peer(net, hop, (set(macs) - seen).pop())])
        changer.join()
    assert vxlan_edges.forwarder.counters()["table_changes"] - before > 1
    vxlan_edges.forwarder.update(all_peers())


def test_ten_thousand_peers(vxlan_edges: Edges) -> None:
    nets = [IPv4Network((0x0B000000 + (n << 8), 24)) for n in range(10_000)]
    vxlan_edges.forwarder.update(Peer(net, hop, number_mac(n)) for n, net in enumerate(nets))
    for n in (0, 1, 4999, 9999):
        vxlan_edges.send_tun(bytes(outward(dst=str(nets[n][7]))))
        assert vxlan_edges.recv_underlay()[0][8:14] == number_mac(n)
        back = bytes(inward(src=str(nets[n][7])))
        vxlan_edges.send_underlay(vxlan(back, source=number_mac(n)))
        assert vxlan_edges.recv_tun()[1] == back
        sizes = len(bytes(outward())), len(back)
        vxlan_edges.settled()
        assert vxlan_edges.forwarder.peer_counters()[nets[n]] == PeerCounters(1, sizes[0], 1, sizes[1])
    vxlan_edges.forwarder.update([], nets)
    assert not set(nets) & set(vxlan_edges.forwarder.peer_counters())
    with vxlan_edges.expect_drops(receive_inner_source=1):
        vxlan_edges.send_underlay(vxlan(bytes(inward(src=str(nets[3][7]))), source=number_mac(3)))
        vxlan_edges.send_underlay(vxlan(good_in))
        assert vxlan_edges.recv_tun_until(good_in) == []


def test_ten_thousand_peers_go_under_traffic(vxlan_edges: Edges) -> None:
    """Packets to a peer that stays are carried all the while; whoever is gone is answered for."""
    nets = [IPv4Network((0x0B000000 + (n << 8), 24)) for n in range(10_000)]
    vxlan_edges.forwarder.update(Peer(net, hop, peer_mac) for net in nets)
    done = threading.Event()

    def take_away() -> None:
        for first in range(0, 2000, 40):
            vxlan_edges.forwarder.update([], nets[first : first + 40])
        done.set()

    before = vxlan_edges.forwarder.counters()["table_changes"]
    taking = threading.Thread(target=take_away)
    taking.start()
    carried = 0
    with vxlan_edges.expect_drops():
        while not done.is_set() or carried < 100:
            vxlan_edges.send_tun(good_out)
            assert vxlan_edges.recv_underlay()[0][22:] == good_out
            carried += 1
    taking.join()
    assert vxlan_edges.forwarder.counters()["table_changes"] - before > 1
    gone = bytes(outward(dst=str(nets[0][1])))
    with vxlan_edges.expect_drops(send_no_route=1):
        vxlan_edges.send_tun(gone)
        assert vxlan_edges.recv_tun()[1] == net_unreachable(gone, ip_address("10.5.1.0"))
    vxlan_edges.forwarder.update([], nets)


def test_more_peers_than_the_table_holds() -> None:
    with Edges("vxlan") as edges:
        prefixes = IPv4Network("20.0.0.0/8").subnets(new_prefix=32)
        refused = edges.forwarder.update(Peer(next(prefixes), hop, peer_mac) for _ in range(max_peers))
        assert len(edges.forwarder.peers) == max_peers and not refused.keys() & edges.forwarder.peers.keys()
        assert set(refused.values()) == {f"the forwarding table holds at most {max_peers} prefixes"}
        prefix = next(iter(refused))
        some = next(net for net, peer in edges.forwarder.peers.items() if peer.next_hop == hop)
        assert edges.forwarder.update([Peer(prefix, hop, peer_mac)], [some]) == {}


def test_a_reused_slot_begins_at_zero(vxlan_edges: Edges) -> None:
    first, second = ip_network("10.5.20.0/24"), ip_network("fd05:20::/64")
    for _ in range(3):
        vxlan_edges.forwarder.update([Peer(first, hop, peer_mac)])
        assert vxlan_edges.forwarder.peer_counters()[first] == PeerCounters()
        packet = bytes(outward(dst="10.5.20.1"))
        vxlan_edges.send_tun(packet)
        vxlan_edges.recv_underlay()
        vxlan_edges.settled()
        expected = PeerCounters(tx_packets=1, tx_bytes=len(packet))
        assert vxlan_edges.forwarder.peer_counters()[first] == expected
        assert vxlan_edges.forwarder.peer_counters([first, second]) == {first: expected}
        vxlan_edges.forwarder.update([Peer(second, hop, peer_mac)], [first])
        assert vxlan_edges.forwarder.peer_counters()[second] == PeerCounters()
        vxlan_edges.forwarder.update([], [second])


def test_a_peer_that_changes_keeps_its_counters(vxlan_edges: Edges) -> None:
    net = ip_network("10.5.21.0/24")
    for mac in (number_mac(1), number_mac(2)):
        vxlan_edges.forwarder.update([Peer(net, hop, mac)])
        vxlan_edges.send_tun(bytes(outward(dst="10.5.21.1")))
        assert vxlan_edges.recv_underlay()[0][8:14] == mac
    vxlan_edges.settled()
    assert vxlan_edges.forwarder.peer_counters()[net].tx_packets == 2
    vxlan_edges.forwarder.update([], [net])


def test_refusals_leave_the_table_as_it_was(vxlan_edges: Edges) -> None:
    wrong = Peer(ip_network("10.5.22.0/24"), ip_address("2001:db8::1"), peer_mac)
    for _ in range(3):
        assert vxlan_edges.forwarder.update([wrong]) == {wrong.prefix: "Address family not supported by protocol"}
    assert wrong.prefix not in vxlan_edges.forwarder.peers
    vxlan_edges.send_tun(good_out)
    assert vxlan_edges.recv_underlay()[0][22:] == good_out


def test_a_refused_peer_leaves_its_place_empty_and_the_others_in_theirs(vxlan_edges: Edges) -> None:
    first, second = ip_network("10.5.24.0/24"), ip_network("10.5.25.0/24")
    vxlan_edges.forwarder.update([Peer(first, hop, peer_mac)])
    wrong = Peer(first, ip_address("2001:db8::1"), peer_mac)
    assert set(vxlan_edges.forwarder.update([wrong, Peer(second, hop, peer_mac)])) == {first}
    assert first not in vxlan_edges.forwarder.peers and second in vxlan_edges.forwarder.peers
    there, gone = bytes(outward(dst="10.5.25.1")), bytes(outward(dst="10.5.24.1"))
    with vxlan_edges.expect_drops(send_no_route=1):
        vxlan_edges.send_tun(gone)
        assert vxlan_edges.recv_tun()[1] == net_unreachable(gone, ip_address("10.5.1.0"))
    vxlan_edges.send_tun(there)
    assert vxlan_edges.recv_underlay()[0][22:] == there
    vxlan_edges.forwarder.update([], [second])


def test_two_slots_may_not_hold_one_prefix(vxlan_edges: Edges) -> None:
    """At the boundary itself, since `Forwarder` gives a prefix one slot: the commit is refused and the old table stays."""
    from dataplane._core import ffi, lib

    raw = ffi.new("struct dp_peer *", {"prefix_len": 24})
    raw.prefix.family = raw.next_hop.family = 4
    ffi.memmove(raw.next_hop.bytes, hop.packed, 4)
    core = vxlan_edges.forwarder._dp
    for slot, host_bits in ((max_peers - 1, 0), (max_peers - 2, 77)):
        ffi.memmove(raw.prefix.bytes, bytes([10, 5, 23, host_bits]), 4)
        assert lib.dp_peer_set(core, slot, raw) == 0
    spare = Peer(ip_network("10.5.26.0/24"), hop, peer_mac)
    with pytest.raises(CoreError) as refused:
        vxlan_edges.forwarder.update([spare])
    assert refused.value.errno == 17
    with vxlan_edges.expect_drops(send_no_route=1):
        vxlan_edges.send_tun(bytes(outward(dst="10.5.23.1", src="224.0.0.1")))
        vxlan_edges.send_tun(good_out)
        assert vxlan_edges.recv_underlay_until(good_out) == []
    for slot in (max_peers - 1, max_peers - 2):
        assert lib.dp_peer_clear(core, slot) == 0
    vxlan_edges.forwarder.update([])  # what was asked for is published now
    to_spare = bytes(outward(dst="10.5.26.1"))
    vxlan_edges.send_tun(to_spare)
    assert vxlan_edges.recv_underlay()[0][22:] == to_spare
    vxlan_edges.forwarder.update([], [spare.prefix])


@pytest.mark.parametrize("slot", [max_peers, 2**32 - 1])
def test_slots_and_prefixes_out_of_range(vxlan_edges: Edges, slot: int) -> None:
    from dataplane._core import ffi, lib

    core = vxlan_edges.forwarder._dp
    peer = ffi.new("struct dp_peer *", {"prefix_len": 24, "local": 1, "prefix": {"family": 4}})
    assert lib.dp_peer_set(core, slot, peer) == lib.dp_peer_clear(core, slot) == -22
    for family, length in ((4, 33), (6, 129), (0, 0), (5, 8)):
        peer = ffi.new("struct dp_peer *", {"prefix_len": length, "local": 1, "prefix": {"family": family}})
        assert lib.dp_peer_set(core, 9, peer) == -22
    assert lib.dp_read_peer_counters(core, slot, 1, ffi.new("struct dp_peer_counters[1]")) == -22
