"""A forwarder goes on where another one ended: its table, its counters, and the packets that waited meanwhile."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from dataplane.core import Forwarder, max_peers
from dataplane.errors import CoreError
from dataplane.model import Peer, PeerCounters
from tests.core.edges import Edges, all_peers, vxlan
from tests.core.packets import good_in, good_out


def read_all(forwarder: Forwarder) -> None:
    while forwarder.read_loaded(1):
        pass


@pytest.mark.parametrize(("backend", "family"), [("vxlan", 4), ("vxlan", 6), ("udp", 4)])
def test_the_next_one_has_table_and_counters_and_what_waited(backend: str, family: int) -> None:
    with Edges(backend, mtu=1400, family=family) as edges:
        edges.send_tun(good_out)
        edges.recv_underlay()
        edges.forwarder.stop()
        edges.send_tun(good_out)  # waits
        table, (counters, peers) = edges.forwarder.table(), edges.forwarder.told()
        assert counters["tx_packets"] == 1
        following = Forwarder(edges.config)
        following.load(table)
        following.count_on(counters, peers)
        following.start()
        edges.recv_underlay()
        read_all(following)
        assert following.peers == edges.forwarder.peers
        following.stop()
        assert following.counters()["tx_packets"] == 2 and following.since_start()["tx_packets"] == 1
        assert max(peer.tx_packets for peer in following.peer_counters().values()) == 2
        assert following.drops() == edges.forwarder.drops()
        following.close()


def test_prefixes_that_have_ended_are_left_out() -> None:
    with Edges(start=False) as edges, Edges(start=False) as others:
        table = edges.forwarder.table()
        following = Forwarder(others.config)
        gone = next(peer.prefix for peer in all_peers() if peer.next_hop is not None)
        following.load(table, frozenset({str(gone)}))
        read_all(following)
        assert set(following.peers) == {peer.prefix for peer in all_peers()} - {gone}
        # What it changes then is as ever, slots that are free are used.
        new = Peer(ip_network("10.5.77.0/24"), all_peers()[-1].next_hop, bytes(6))
        following.update([new], [next(iter(following.peers))])
        assert new.prefix in following.peers and following.peer_counters()[new.prefix] == PeerCounters()
        following.close()


def test_stopped_and_resumed_it_has_lost_nothing() -> None:
    with Edges() as edges:
        for _ in range(3):
            edges.forwarder.stop()
            edges.send_tun(good_out)
            edges.forwarder.resume()
            edges.recv_underlay()
        assert edges.forwarder.counters()["tx_packets"] == 3 and edges.forwarder.failures == ()


def test_a_table_that_is_none_is_refused_and_ours_stays_empty() -> None:
    with Edges(start=False) as edges:
        table = edges.forwarder.table()
        size = len(table) // len(all_peers())
        for wrong in (table[:-1], bytes(size * (max_peers + 1))):
            following = Forwarder(edges.config)
            with pytest.raises(CoreError, match="are no table of at most"):
                following.load(wrong)
            assert following.table() == b""
            following.close()
        with pytest.raises(CoreError, match="are no table"):
            edges.forwarder.load(table)  # it has one
        damaged = bytearray(table)
        damaged[0] = 7  # an address family
        following = Forwarder(edges.config)
        with pytest.raises(CoreError):
            following.load(bytes(damaged))
        following.close()


def test_counters_that_were_told_do_not_count_twice_at_sockets_that_go_on() -> None:
    with Edges() as edges:
        edges.send_underlay(good_in)
        edges.forwarder.stop()
        counters, peers = edges.forwarder.told()
        counters["drop_receive_socket"] += 5  # of sockets that are gone
        following = Forwarder(edges.config)
        following.load(edges.forwarder.table())
        following.count_on(counters, peers)
        assert following.drops()["receive_socket"] == counters["drop_receive_socket"]
        assert set(following.since_start().values()) == {0}
        following.close()


def test_who_exchanged_what_since_it_was_asked() -> None:
    with Edges("vxlan") as edges:
        forwarder = edges.forwarder
        assert forwarder.exchanged() == {}
        edges.send_tun(good_out)
        edges.recv_underlay()
        (told,) = forwarder.exchanged().items()
        assert forwarder.peer_counters()[told[0]].tx_packets == 1 and told[1] == (1, 0)
        edges.send_underlay(vxlan(good_in))
        edges.recv_tun()
        assert forwarder.exchanged() == {told[0]: (0, 1)}
        assert forwarder.exchanged() == {}
