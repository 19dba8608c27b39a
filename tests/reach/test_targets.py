"""Whom `dataplane ping` asks, by what the status says."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from dataplane.errors import BadInput
from dataplane.reach.targets import chosen, targets
from tests.reach.documents import document


def asked(**changes: Any) -> list[tuple[str, str, int, int]]:
    return [(str(t.ask), str(t.source), t.mtu, t.overhead) for t in targets(document(**changes))]


def test_tunnels_answer_at_the_first_address_and_each_backend_has_its_overhead() -> None:
    assert asked() == [("10.244.2.0", "10.244.1.0", 1450, 50), ("fd00:244:0:2::", "fd00:244:0:1::", 1430, 70)]
    assert asked(backend="udp")[0] == ("10.244.2.0", "10.244.1.0", 1450, 28)


def test_without_a_tunnel_the_pods_bridge_answers() -> None:
    assert asked(backend="host-gw", direct=True) == [
        ("10.244.2.1", "10.244.1.1", 1450, 0),
        ("fd00:244:0:2::1", "fd00:244:0:1::1", 1430, 0),
    ]


def test_peers_are_in_the_order_of_their_subnets() -> None:
    given = document()
    given["peers"] = [
        peer | {"subnet": name} for name in ("10.244.30.0/24", "10.244.4.0/24") for peer in given["peers"]
    ]
    given["peers"].reverse()
    assert [str(target.subnet) for target in targets(given)][::2] == ["10.244.4.0/24", "10.244.30.0/24"]


def test_a_peer_of_a_version_that_we_have_no_subnet_of_is_left_out() -> None:
    given = document()
    given["lease"]["ipv6_subnet"] = None
    assert [str(target.subnet) for target in targets(given)] == ["10.244.2.0/24"]


def test_without_a_lease_nobody_is_asked() -> None:
    with pytest.raises(BadInput, match="no lease yet"):
        targets(document() | {"lease": None})


@pytest.mark.parametrize(
    ("name", "subnet"),
    [
        ("10.244.2.0/24", "10.244.2.0/24"),
        ("10.244.2.7", "10.244.2.0/24"),
        ("192.0.2.2", "10.244.2.0/24"),
        ("fd00:244:0:2::9", "fd00:244:0:2::/64"),
        ("2001:db8::2", "fd00:244:0:2::/64"),
    ],
)
def test_a_peer_has_three_names(name: str, subnet: str) -> None:
    names = [ip_network(name)] * 2  # named twice, asked once
    assert [str(target.subnet) for target in chosen(targets(document()), names)] == [subnet]


@pytest.mark.parametrize("name", ["10.244.3.1", "10.244.0.0/16", "10.244.2.0/25", "192.0.2.1"])
def test_what_is_of_no_peer_is_named(name: str) -> None:
    with pytest.raises(BadInput, match=f"^{name} is of no peer"):
        chosen(targets(document()), [ip_network(name)])
