"""A Node's annotations as a lease: flannel's texts both ways, and hostile ones.

Facts: flannel.md sections 3.1 to 3.4.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.errors import BadInput, BadLease
from dataplane.flannel.annotations import Facts, own_addresses, read_lease, wanted
from dataplane.model import Lease, LeaseAttrs, NetConf
from tests.flannel.nodes import mac, only4, vxlan_texts

dual = NetConf(
    network=IPv4Network("10.244.0.0/16"),
    ipv6_network=IPv6Network("fd00:244::/48"),
    enable_ipv6=True,
    backend_type="vxlan",
)
only6 = NetConf(ipv6_network=IPv6Network("fd00:244::/48"), enable_ipv4=False, enable_ipv6=True, backend_type="vxlan")


def attrs(family: str) -> LeaseAttrs:
    data = {"VNI": 1, "VtepMAC": mac}
    four, six = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
    return {
        "vxlan": LeaseAttrs(four, None, "vxlan", data),
        "vxlan dual": LeaseAttrs(four, six, "vxlan", data, data),
        "vxlan six": LeaseAttrs(None, six, "vxlan", None, data),
        "host-gw": LeaseAttrs(four, None, "host-gw"),
        "host-gw dual": LeaseAttrs(four, six, "host-gw"),
        "udp": LeaseAttrs(four),
    }[family]


six_texts = {"backend-v6-data": f'{{"VNI":1,"VtepMAC":"{mac}"}}', "public-ipv6": "2001:db8::1"}


@pytest.mark.parametrize(
    ("what", "texts"),
    [
        ("vxlan", vxlan_texts),
        ("vxlan dual", vxlan_texts | six_texts),
        ("vxlan six", {"kube-subnet-manager": "true", "backend-type": "vxlan"} | six_texts),
        ("host-gw", vxlan_texts | {"backend-type": "host-gw", "backend-data": "null"}),
        (
            "host-gw dual",
            vxlan_texts | six_texts | {"backend-type": "host-gw", "backend-data": "null", "backend-v6-data": "null"},
        ),
        ("udp", vxlan_texts | {"backend-type": "", "backend-data": "null"}),
    ],
)
def test_what_we_write_is_flannels(what: str, texts: dict[str, str]) -> None:
    assert wanted(attrs(what), Facts((), {})) == texts


def test_an_overwrite_is_for_the_peers() -> None:
    facts = Facts((), {"public-ip-overwrite": "198.51.100.7", "public-ipv6-overwrite": "2001:db8::7"})
    texts = wanted(attrs("vxlan dual"), facts)
    assert (texts["public-ip"], texts["public-ipv6"]) == ("198.51.100.7", "2001:db8::7")
    with pytest.raises(BadInput, match="public-ip-overwrite: .*nowhere"):
        wanted(attrs("vxlan"), Facts((), {"public-ip-overwrite": "nowhere"}))


def test_an_administrators_addresses() -> None:
    assert own_addresses(Facts((), {"node-public-ip": "192.0.2.9"})) == (IPv4Address("192.0.2.9"), None)
    assert own_addresses(Facts((), {"node-public-ip": ""})) == (None, None)
    with pytest.raises(BadInput, match="node-public-ipv6: "):
        own_addresses(Facts((), {"node-public-ipv6": "192.0.2.9"}))


def test_a_node_of_flannels_is_read() -> None:
    lease = read_lease("n", Facts(("10.244.7.0/24",), vxlan_texts), only4)
    assert lease == Lease(IPv4Network("10.244.7.0/24"), None, attrs("vxlan"))
    both = read_lease("n", Facts(("fd00:244:0:7::/64", "10.244.7.0/24"), vxlan_texts | six_texts), dual)
    assert both == Lease(IPv4Network("10.244.7.0/24"), IPv6Network("fd00:244:0:7::/64"), attrs("vxlan dual"))


def test_of_a_family_that_is_off_nothing_is_read() -> None:
    texts = vxlan_texts | {"public-ipv6": "nonsense", "backend-v6-data": "{"}
    lease = read_lease("n", Facts(("10.244.7.0/24", "fd00:244:0:7::/64"), texts), only4)
    assert lease is not None
    assert (lease.ipv6_subnet, lease.attrs.public_ipv6, lease.attrs.backend_v6_data) == (None, None, None)
    six = read_lease("n", Facts(("fd00:244:0:7::/64",), vxlan_texts | six_texts | {"public-ip": "x"}), only6)
    assert six == Lease(None, IPv6Network("fd00:244:0:7::/64"), attrs("vxlan six"))


def test_an_old_flannel_wrote_no_vni() -> None:
    lease = read_lease("n", Facts(("10.244.7.0/24",), vxlan_texts | {"backend-data": f'{{"VtepMAC":"{mac}"}}'}), only4)
    assert lease is not None
    assert lease.attrs.backend_data == {"VtepMAC": mac}


@pytest.mark.parametrize("mark", ["", "True", "TRUE", "false", " true"])
def test_a_node_that_is_not_marked_takes_no_part(mark: str) -> None:
    assert read_lease("n", Facts(("10.244.7.0/24",), vxlan_texts | {"kube-subnet-manager": mark}), only4) is None


@pytest.mark.parametrize(
    ("cidrs", "texts", "reason"),
    [
        ((), {}, "pod cidr not assigned"),
        (("fd00::/64",), {}, "pod cidr not assigned"),
        (("10.244.7.0/24", "10.244.8.0/24", "10.244.9.0/24"), {}, "should be IPv4/IPv6 only or dualstack"),
        (("10.244.7.0",), {}, "is not an IPv4 prefix"),
        (("10.244.7.0/24",), {"public-ip": "10.0.0"}, 'annotation public-ip: "10.0.0" is not an IPv4 address'),
        (("10.244.7.0/24",), {"backend-data": "{"}, "annotation backend-data: not JSON"),
        (("10.244.7.0/24",), {"backend-data": "[" * 5000}, "annotation backend-data: not usable JSON"),
        (("10.244.7.0/24",), {"backend-data": " " * 70000}, "it has 70000 characters; allowed are up to 65536"),
    ],
)
def test_a_node_that_cannot_be_used_is_named(cidrs: tuple[str, ...], texts: dict[str, str], reason: str) -> None:
    with pytest.raises(BadLease) as caught:
        read_lease("worker-3", Facts(cidrs, vxlan_texts | texts), only4)
    assert caught.value.key == "node worker-3"
    assert reason in caught.value.reason


@given(st.lists(st.text(), max_size=3), st.dictionaries(st.sampled_from([*vxlan_texts, *six_texts]), st.text()))
def test_any_text_is_a_lease_or_a_refusal(cidrs: list[str], texts: dict[str, str]) -> None:
    try:
        lease = read_lease("n", Facts(tuple(cidrs), {"kube-subnet-manager": "true", **texts}), dual)
    except BadLease:
        return
    assert lease is None or lease.subnet is not None or lease.ipv6_subnet is not None
