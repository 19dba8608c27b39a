"""Desired state: leases in, peers and refusals out; whole-value comparison; isolation that no order changes.

The vxlan and udp backends are the real ones (they are pure); everything else is built here.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_network

import pytest

from dataplane.backends.base import DevicePlan
from dataplane.backends.vxlan import VxlanBackend, format_mac
from dataplane.leases.claims import Claims
from dataplane.leases.desired import Desired
from dataplane.leases.diff import Change, diff
from dataplane.leases.view import LeaseView
from dataplane.model import (
    Lease,
    LeaseAttrs,
    LeaseGone,
    LeasePut,
    LeaseRefused,
    NetConf,
    Peer,
    RefusedLease,
    Snapshot,
    type_vxlan,
)

conf = NetConf(network=IPv4Network("10.244.0.0/16"), subnet_len=24, backend_type=type_vxlan)


def vxlan_lease(subnet: str, ip: str, mac: str = "", expires: float = 1000.0, born: int = 0) -> Lease:
    number = int(IPv4Address(ip)) & 0xFFFFFF
    text = mac or format_mac(b"\x02\x00\x00" + number.to_bytes(3, "big"))
    attrs = LeaseAttrs(IPv4Address(ip), None, type_vxlan, {"VNI": 1, "VtepMAC": text})
    return Lease(IPv4Network(subnet), None, attrs, expires, (float(born), ""))


own = vxlan_lease("10.244.1.0/24", "192.0.2.1")
backend = VxlanBackend.from_conf(conf)


def plans() -> tuple[DevicePlan, ...]:
    address = own.attrs.public_ip
    return backend.plans(conf, own, interface="eth0", interface_mtu=1500, address=address, address6=None)


def desired() -> Desired:
    return Desired(conf, own, backend, plans())


def update(state: Desired, *leases: Lease) -> Change:
    return state.update({lease.key: lease for lease in leases}).get("flannel.1", Change())


def peer_of(lease: Lease) -> Peer:
    assert lease.subnet is not None
    mac = bytes.fromhex(lease.attrs.backend_data["VtepMAC"].replace(":", ""))
    return Peer(lease.subnet, lease.attrs.public_ip, mac)


def test_our_own_subnet_is_there_from_the_start_and_is_local() -> None:
    assert desired().peers == {"flannel.1": {own.subnet: Peer(ip_network("10.244.1.0/24"), None)}}


def test_add_change_remove() -> None:
    state = desired()
    first = vxlan_lease("10.244.2.0/24", "192.0.2.2")
    assert update(state, first) == Change(put=(peer_of(first),))
    moved = vxlan_lease("10.244.2.0/24", "192.0.2.9")
    assert update(state, moved) == Change(put=(peer_of(moved),))
    assert state.update({moved.key: None})["flannel.1"] == Change(remove=(ip_network("10.244.2.0/24"),))
    assert state.accepted == 0


def test_renewal_of_a_peer_changes_nothing() -> None:
    state = desired()
    update(state, vxlan_lease("10.244.2.0/24", "192.0.2.2"))
    assert not update(state, vxlan_lease("10.244.2.0/24", "192.0.2.2", expires=2000.0))


def test_own_lease_never_becomes_a_peer() -> None:
    state = desired()
    assert not update(state, own)
    stolen = vxlan_lease("10.244.1.0/24", "192.0.2.66")
    assert not update(state, stolen)
    assert state.peers["flannel.1"][ip_network("10.244.1.0/24")].next_hop is None


def test_bad_lease_is_isolated_and_named() -> None:
    state = desired()
    good = vxlan_lease("10.244.2.0/24", "192.0.2.2")
    bad = vxlan_lease("10.244.3.0/24", "192.0.2.3", mac="no mac")
    assert update(state, good, bad) == Change(put=(peer_of(good),))
    assert list(state.refused) == [bad.key]
    assert "no mac" in state.refused[bad.key]
    repaired = vxlan_lease("10.244.3.0/24", "192.0.2.3")
    assert update(state, repaired) == Change(put=(peer_of(repaired),))
    assert state.refused == {}


def test_lease_that_turns_bad_leaves_the_table() -> None:
    state = desired()
    update(state, vxlan_lease("10.244.2.0/24", "192.0.2.2"))
    change = update(state, vxlan_lease("10.244.2.0/24", "192.0.2.2", mac="ff:ff:ff:ff:ff:ff"))
    assert change == Change(remove=(ip_network("10.244.2.0/24"),))


colliding = [
    vxlan_lease("10.244.8.0/24", "192.0.2.8", born=3),
    vxlan_lease("10.244.0.0/17", "192.0.2.17", born=1),
    vxlan_lease("10.244.8.128/25", "192.0.2.25", born=4),
    vxlan_lease("10.244.128.0/18", "192.0.2.18", born=6),
    vxlan_lease("10.244.160.0/20", "192.0.2.8", born=5),
    vxlan_lease("10.244.200.0/24", "192.0.2.20", mac=format_mac(b"\x02\x00\x00\x00\x02\x08"), born=9),
]


@pytest.mark.parametrize("batched", [False, True])
def test_the_older_lease_stays_whatever_the_order(batched: bool) -> None:
    outcomes = set()
    for order in itertools.permutations(colliding):
        state = desired()
        if batched:
            update(state, *order)
        else:
            for lease in order:
                update(state, lease)
        outcomes.add((frozenset(state.peers["flannel.1"].items()), frozenset(state.refused.items())))
    assert len(outcomes) == 1
    ((_, refused),) = outcomes
    # The oldest overlaps us and displaces nobody; the /20 claims the first one's address, the last its VTEP MAC, so
    # the /18 has nobody against it.
    assert {key: next((word for word in reason.split() if "-2" in word), "") for key, reason in refused} == {
        "10.244.0.0-17": "",
        "10.244.8.128-25": "10.244.8.0-24,",
        "10.244.160.0-20": "10.244.8.0-24,",
        "10.244.200.0-24": "10.244.8.0-24,",
    }


@pytest.mark.parametrize(
    "newcomer",
    [
        vxlan_lease("10.244.8.0/25", "192.0.2.9"),
        vxlan_lease("10.244.8.0/21", "192.0.2.9"),
        vxlan_lease("10.244.0.0/24", "192.0.2.8", mac="02:00:00:00:00:09"),
        vxlan_lease("10.244.0.0/24", "192.0.2.9", mac="02:00:00:00:02:08"),
    ],
)
def test_of_leases_of_unknown_age_the_one_in_use_stays(newcomer: Lease) -> None:
    state = desired()
    good = vxlan_lease("10.244.8.0/24", "192.0.2.8")
    update(state, good)
    assert not update(state, newcomer)
    assert good.key in state.refused[newcomer.key] and state.accepted == 1
    assert not update(state, good), "a renewal changes nothing"
    assert update(state, newcomer) == Change() and newcomer.key in state.refused


def test_a_refused_lease_is_nobodys_obstacle() -> None:
    state = desired()
    first = vxlan_lease("10.244.8.0/24", "192.0.2.8", born=1)
    second = vxlan_lease("10.244.8.0/23", "192.0.2.9", born=2)
    third = vxlan_lease("10.244.9.0/24", "192.0.2.10", born=3)
    update(state, third, second, first)
    assert list(state.refused) == [second.key]
    state.update({first.key: None})
    assert list(state.refused) == [third.key], "the older one displaces whoever used its absence"
    assert second.key in state.refused[third.key]


def test_a_step_is_bounded_and_steps_come_to_the_same() -> None:
    whole, pieces = desired(), desired()
    leases = [
        vxlan_lease(str(IPv4Network((int(IPv4Address("10.244.128.0")) + 4 * i, 30))), f"192.0.{i >> 8}.{i & 255}")
        for i in range(3, 600)
    ]
    wide = vxlan_lease("10.244.128.0/17", "192.1.2.3", born=-1)
    for changed in ({lease.key: lease for lease in leases}, {wide.key: wide}, {wide.key: None}):
        whole.update(changed)
        pieces.note(changed)
        steps = 0
        done = False
        while not done:
            done, change = pieces.step(50)
            assert sum(len(part.put) + len(part.remove) for part in change.values()) <= 50 + 64
            assert len(pieces.judged) <= 50
            steps += 1
        assert steps > 5
        assert (pieces.peers, pieces.refused) == (whole.peers, whole.refused)


def test_who_was_isolated_comes_back_when_the_other_goes() -> None:
    state = desired()
    winner = vxlan_lease("10.244.8.0/24", "192.0.2.8", born=1)
    loser = vxlan_lease("10.244.8.0/25", "192.0.2.25", born=2)
    update(state, winner, loser)
    assert winner.key in state.refused[loser.key]
    change = state.update({winner.key: None})["flannel.1"]
    assert change == Change(put=(peer_of(loser),), remove=(ip_network("10.244.8.0/24"),))
    assert state.refused == {}


def test_bad_lease_does_not_displace_a_good_one() -> None:
    state = desired()
    good = vxlan_lease("10.244.8.0/25", "192.0.2.8")
    update(state, good, vxlan_lease("10.244.8.0/24", "192.0.2.9", mac="x"))
    assert state.peers["flannel.1"][ip_network("10.244.8.0/25")] == peer_of(good)


def test_claims_agree_with_a_plain_search() -> None:
    prefixes = [
        ip_network((int(IPv4Address("10.0.0.0")) + (i << (32 - bits)), bits)) for bits in (22, 24, 26) for i in range(9)
    ]
    claims = Claims()
    held = prefixes[::2]
    for prefix in held:
        claims.add(prefix, str(prefix))
    claims.add(held[0], "twice")
    claims.drop(held[0], "twice")
    claims.drop(held[1], str(held[1]))
    held.pop(1)
    for prefix in prefixes:
        expected = sorted(str(other) for other in held if other.overlaps(prefix))
        assert sorted(claims.overlapping(prefix)) == expected


def test_diff_compares_whole_values() -> None:
    net = ip_network("10.244.2.0/24")
    old, new = Peer(net, IPv4Address("192.0.2.2"), b"aaaaaa"), Peer(net, IPv4Address("192.0.2.2"), b"bbbbbb")
    assert diff({net: old}, {net: new}) == Change(put=(new,))
    assert not diff({net: old}, {net: Peer(net, IPv4Address("192.0.2.2"), b"aaaaaa")})
    assert diff({net: old}, {}) == Change(remove=(net,))
    assert not diff({net: old}, {}, prefixes=())


def test_snapshot_after_snapshot_shows_a_changed_mac_and_a_vanished_lease() -> None:
    view = LeaseView()
    first, second = vxlan_lease("10.244.2.0/24", "192.0.2.2"), vxlan_lease("10.244.3.0/24", "192.0.2.3")
    assert view.fold(Snapshot((own, first, second))) == {own.key, first.key, second.key}
    changed = vxlan_lease("10.244.2.0/24", "192.0.2.2", mac="02:11:22:33:44:55")
    assert view.fold(Snapshot((own, changed))) == {first.key, second.key}
    assert view.leases[first.key] == changed
    assert view.fold(Snapshot((own, changed))) == set()


def test_refused_content_voids_what_we_had() -> None:
    view = LeaseView()
    lease = vxlan_lease("10.244.2.0/24", "192.0.2.2")
    view.fold(Snapshot((lease,)))
    assert view.fold(LeaseRefused(RefusedLease(lease.key, "no JSON"))) == {lease.key}
    assert view.leases == {} and view.refused == {lease.key: "no JSON"}
    assert view.fold(LeasePut(lease)) == {lease.key}
    assert view.refused == {}
    assert view.fold(LeaseGone(lease.key)) == {lease.key}
    assert view.fold(LeaseGone(lease.key)) == set()


def test_an_older_lease_that_claims_what_is_ours_makes_others_refuse_ours() -> None:
    """Each way to claim it; how old our own is may be known before or after; it is over when the older one is gone."""
    elder = vxlan_lease("10.244.7.0/24", "192.0.2.1", "02:00:00:00:00:77", born=3)
    claims = {
        elder.key: elder,
        "10.244.0.0-23": vxlan_lease("10.244.0.0/23", "192.0.2.8", born=4),
        "10.244.9.0-24": vxlan_lease("10.244.9.0/24", "192.0.2.9", str(own.attrs.backend_data["VtepMAC"]), born=5),
    }
    younger = vxlan_lease("10.244.10.0/24", "192.0.2.1", "02:00:00:00:00:78", born=11)
    bad = vxlan_lease("10.9.9.0/24", "192.0.2.9", born=1)
    shown = replace(own, born=(10.0, ""))
    for order in itertools.permutations((elder, younger, bad, shown)):
        state = desired()
        for lease in order:
            update(state, lease)
        assert state.elders.keys() == {elder.key}
        assert "192.0.2.1 is our own" in state.elders[elder.key]
        assert state.refused.keys() == {elder.key, younger.key, bad.key}
        state.update({elder.key: None})
        assert not state.elders
    state = desired()
    state.update({**claims, own.key: shown})
    assert state.elders.keys() == claims.keys()
    update(state, replace(own, born=(4.0, "")))
    assert state.elders.keys() == {elder.key}


def test_of_unknown_age_no_lease_is_older_than_ours() -> None:
    state = desired()
    update(state, own, vxlan_lease("10.244.7.0/24", "192.0.2.1", "02:00:00:00:00:77"))
    assert not state.elders and len(state.refused) == 1
