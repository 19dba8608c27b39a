"""Nodes folded into leases: the events that changes of Nodes become."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from dataplane.leases.view import LeaseView
from dataplane.model import Lease, LeaseAttrs, LeaseGone, LeasePut, LeaseRefused, RefusedLease
from dataplane.stores.kube.nodes import Nodes, Own, facts_of
from dataplane.stores.kube.objects import Metadata, Node, NodeSpec
from tests.flannel.nodes import mac, only4, vxlan_texts

prefix = "flannel.alpha.coreos.com/"


def node(name: str, cidr: str | None, **texts: str) -> Node:
    annotations = {prefix + item.replace("_", "-"): text for item, text in (vxlan_texts | texts).items()}
    return Node(Metadata(name, "1", annotations), NodeSpec(None, None if cidr is None else [cidr]))


def put(nodes: Nodes, *changed: Node) -> list[object]:
    return [event for each in changed for event in nodes.put(each)]


def lease_of(cidr: str, public: str = "192.0.2.1") -> Lease:
    data = {"VNI": 1, "VtepMAC": mac}
    return Lease(IPv4Network(cidr), None, LeaseAttrs(IPv4Address(public), None, "vxlan", data))


def test_old_clusters_have_one_pod_cidr() -> None:
    assert facts_of(Node(Metadata("n"), NodeSpec("10.244.7.0/24")), prefix).cidrs == ("10.244.7.0/24",)


def test_only_what_matters_is_told() -> None:
    nodes = Nodes(prefix, only4)
    assert put(nodes, node("a", "10.244.1.0/24")) == [LeasePut(lease_of("10.244.1.0/24"))]
    heartbeat = node("a", "10.244.1.0/24")
    heartbeat.metadata.resource_version = "2"
    assert heartbeat.metadata.annotations is not None
    heartbeat.metadata.annotations["other.org/x"] = "y"
    assert put(nodes, heartbeat) == []
    moved = node("a", "10.244.1.0/24", **{"public-ip": "192.0.2.9"})
    assert put(nodes, moved) == [LeasePut(lease_of("10.244.1.0/24", "192.0.2.9"))]
    assert nodes.delete("a") == [LeaseGone("10.244.1.0-24")]
    assert nodes.delete("a") == []


def test_a_node_may_get_another_subnet_and_lose_its_mark() -> None:
    nodes = Nodes(prefix, only4)
    put(nodes, node("a", "10.244.1.0/24"))
    assert put(nodes, node("a", "10.244.2.0/24")) == [LeaseGone("10.244.1.0-24"), LeasePut(lease_of("10.244.2.0/24"))]
    assert put(nodes, node("a", "10.244.2.0/24", **{"kube-subnet-manager": "false"})) == [LeaseGone("10.244.2.0-24")]


def test_a_bad_node_is_refused_and_comes_back() -> None:
    nodes = Nodes(prefix, only4)
    put(nodes, node("a", "10.244.1.0/24"))
    gone, refused = put(nodes, node("a", "10.244.1.0/24", **{"public-ip": "?"}))
    assert gone == LeaseGone("10.244.1.0-24")
    assert isinstance(refused, LeaseRefused)
    assert refused.refused.key == "node a"
    assert put(nodes, node("a", "10.244.1.0/24")) == [LeasePut(lease_of("10.244.1.0/24")), LeaseGone("node a")]


def test_of_two_nodes_with_one_subnet_the_first_name_holds_it() -> None:
    nodes = Nodes(prefix, only4)
    put(nodes, node("b", "10.244.1.0/24", **{"public-ip": "192.0.2.2"}))
    refused = LeaseRefused(RefusedLease("node b", "its subnet 10.244.1.0-24 is node a's, which was there first"))
    assert put(nodes, node("a", "10.244.1.0/24")) == [LeasePut(lease_of("10.244.1.0/24")), refused]
    assert nodes.delete("a") == [LeasePut(lease_of("10.244.1.0/24", "192.0.2.2")), LeaseGone("node b")]


def test_of_two_nodes_with_one_subnet_the_older_holds_it() -> None:
    def made(name: str, public_ip: str, created: str) -> Node:
        bare = node(name, "10.244.1.0/24", **{"public-ip": public_ip})
        return Node(Metadata(name, "1", bare.metadata.annotations, created), bare.spec)

    nodes = Nodes(prefix, only4)
    put(nodes, made("b", "192.0.2.2", "2026-01-02T03:04:05Z"))
    refused = LeaseRefused(RefusedLease("node a", "its subnet 10.244.1.0-24 is node b's, which was there first"))
    assert put(nodes, made("a", "192.0.2.66", "2026-01-02T03:04:06Z")) == [refused]
    (lease,) = nodes.snapshot().leases
    assert lease.born == (1767323045.0, "b")


def test_a_change_of_one_of_many_nodes_with_one_subnet_tells_of_a_few() -> None:
    nodes = Nodes(prefix, only4)
    for number in range(500, 0, -1):  # each is older than those before it
        events = put(
            nodes, node(f"n{number:03}", "10.244.1.0/24", **{"public-ip": f"192.0.{number >> 8}.{number & 255}"})
        )
        assert len(events) <= 3
    assert len(nodes.snapshot().refused) == 499
    assert len(nodes.delete("n001")) == 2


def test_our_own_node_holds_its_subnet_whatever_its_name() -> None:
    nodes = Nodes(prefix, only4)
    own = lease_of("10.244.1.0/24")
    nodes.hold(Own("z", own))
    put(nodes, node("z", "10.244.1.0/24"))
    put(nodes, node("a", "10.244.1.0/24", **{"public-ip": "192.0.2.66"}))
    assert nodes.snapshot().leases == (own,)
    assert [entry.key for entry in nodes.snapshot().refused] == ["node a"]


def test_an_older_node_with_our_subnet_is_told_with_what_others_do() -> None:
    def made(name: str, created: str) -> Node:
        bare = node(name, "10.244.1.0/24")
        return Node(Metadata(name, "1", bare.metadata.annotations, created), bare.spec)

    nodes = Nodes(prefix, only4)
    put(nodes, made("z", "2026-01-02T03:04:06Z"))
    nodes.hold(Own("z", nodes.snapshot().leases[0]))
    put(nodes, made("a", "2026-01-02T03:04:05Z"))
    put(nodes, made("b", "2026-01-02T03:04:07Z"))
    reasons = {entry.key: entry.reason for entry in nodes.snapshot().refused}
    subnet = "its subnet 10.244.1.0-24 is node z's, which"
    assert reasons == {
        "node a": f"{subnet} is ours; it was there first, so other nodes refuse ours",
        "node b": f"{subnet} was there first",
    }


def test_our_own_node_shows_the_lease_that_we_hold_while_it_says_what_we_want() -> None:
    nodes = Nodes(prefix, only4)
    own = lease_of("10.244.1.0/24")
    nodes.hold(Own("a", own))
    overwritten = {"public-ip": "198.51.100.7", "public-ip-overwrite": "198.51.100.7"}
    assert put(nodes, node("a", "10.244.1.0/24", **overwritten)) == [LeasePut(own)]
    assert put(nodes, node("a", "10.244.1.0/24", **overwritten | {"public-ip-overwrite": "198.51.100.8"})) == [
        LeasePut(lease_of("10.244.1.0/24", "198.51.100.7"))
    ]


names = st.sampled_from(["a", "b", "c", "own"])
changes = st.tuples(
    names,
    st.sampled_from([None, "gone", "10.244.1.0/24", "10.244.2.0/24"]),
    st.sampled_from(["192.0.2.1", "192.0.2.2", "?"]),
    st.sampled_from(["true", "false"]),
)


@given(st.lists(changes, max_size=25))
def test_events_add_up_to_what_a_fresh_list_would_tell(steps: list[tuple[str, str | None, str, str]]) -> None:
    own = Own("own", lease_of("10.244.1.0/24"))
    nodes, view = Nodes(prefix, only4), LeaseView()
    nodes.hold(own)
    view.fold(nodes.snapshot())
    present: dict[str, Node] = {}
    for name, cidr, public, mark in steps:
        if cidr == "gone":
            present.pop(name, None)
            events = nodes.delete(name)
        else:
            present[name] = node(name, cidr, **{"public-ip": public, "kube-subnet-manager": mark})
            events = nodes.put(present[name])
        for event in events:
            assert view.fold(event), "an event that changes nothing"
    fresh, expected = Nodes(prefix, only4), LeaseView()
    fresh.hold(own)
    for each in reversed(present.values()):
        fresh.put(each)
    expected.fold(fresh.snapshot())
    assert (view.leases, view.refused) == (expected.leases, expected.refused)
