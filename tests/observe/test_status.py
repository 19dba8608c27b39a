"""The status document: names and shapes are the contract's."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from dataplane.cli import status_view
from dataplane.observe.metrics import render
from dataplane.observe.state import NodeState, PeerUnreachable
from tests.observe.node import now_s, read, running


def test_status_document_has_the_contracts_shape() -> None:
    state, _, _ = running()
    body = read(state)
    assert body["ready"] is True and body["problems"] == []
    assert body["interface"] == {
        "name": "eth0",
        "address": "192.0.2.1",
        "mtu": 1500,
        "reason": "the first default route leaves by eth0",
    }
    assert body["backend"] == "vxlan"
    assert body["datapath"] == {"kind": "userspace", "reason": "no other"}
    assert body["lease"]["subnet"] == "10.244.1.0/24"
    assert body["lease"]["public_ip"] == "192.0.2.1"
    assert body["lease"]["vtep_mac"] == "02:00:00:00:00:01"
    assert body["lease"]["expires"] == now_s + 7200
    (peer,) = body["peers"]
    assert peer == {
        "subnet": "10.244.2.0/24",
        "public_ip": "192.0.2.2",
        "vtep_mac": "02:00:00:ab:00:02",
        "device": "flannel.1",
        "direct": False,
        "tx_packets": 1,
        "tx_bytes": 20,
        "rx_packets": 3,
        "rx_bytes": 40,
        "icmp_unreachables": 0,
        "unreachable": None,
        "heard": None,
        "silent": None,
    }
    assert body["drops"] == {"send_no_route": 5, "receive_vni": 0, "forged_encap": 0}


def test_packets_that_found_the_queue_full_are_drops_like_any_other() -> None:
    state, _, _ = running()
    (device,) = state.devices.values()
    device.kernel_drops = lambda: {"tun_queue": 7}
    assert read(state)["drops"] == {"send_no_route": 5, "receive_vni": 0, "tun_queue": 7, "forged_encap": 0}
    assert 'dataplane_drops_total{reason="tun_queue"} 7.0' in b"".join(render(state)).decode().splitlines()


def test_status_document_of_a_node_that_has_nothing_yet_has_every_key() -> None:
    state, _, _ = running()
    assert read(NodeState()).keys() == read(state).keys()
    assert read(NodeState())["ready"] is False


def test_an_unreachable_peer_is_told_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    state, clock, _ = running()
    status_view.show(read(state), now_s)
    assert "ICMP" not in capsys.readouterr().out
    said = PeerUnreachable(IPv4Address("198.51.100.9"), now_s, now_s, 1200, "prohibited")
    state.devices["flannel.1"].unreachable[IPv4Address("192.0.2.2")] = said
    clock.time += 5
    (peer,) = read(state)["peers"]
    assert peer["icmp_unreachables"] == 1200
    assert peer["unreachable"] == {
        "reason": "prohibited",
        "text": "prohibited: a firewall rejects what is sent to it",
        "said_by": "198.51.100.9",
        "since": now_s,
        "last": now_s,
    }
    status_view.show(read(state), clock.time)
    row = next(line for line in capsys.readouterr().out.splitlines() if "prohibited" in line)
    told = "10.244.2.0/24 1,200 5 s ago prohibited: a firewall rejects what is sent to it; says 198.51.100.9"
    assert " ".join(row.split()) == told
    said.said_by = IPv4Address("192.0.2.1")
    status_view.show(read(state), clock.time)
    assert "says this node" in capsys.readouterr().out
    assert state.unready() == []  # anybody can forge it
    lines = b"".join(render(state)).decode().splitlines()
    assert 'dataplane_peer_icmp_unreachables_total{peer="10.244.2.0/24"} 1200.0' in lines
    assert 'dataplane_peer_unreachable{peer="10.244.2.0/24"} 1.0' in lines
    said.reason = None
    (peer,) = read(state)["peers"]
    assert (peer["icmp_unreachables"], peer["unreachable"]) == (1200, None)
    assert 'dataplane_peer_unreachable{peer="10.244.2.0/24"} 0.0' in b"".join(render(state)).decode().splitlines()
