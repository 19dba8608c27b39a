"""net-conf.json: Go's reading rules, flannel's vectors and error texts (flannel pkg/subnet/config_test.go)."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.errors import BadConfig, StoreError
from dataplane.flannel import net_conf
from dataplane.model import NetConf
from dataplane.stores import net_conf_file


def valid(**members: Any) -> NetConf:
    return net_conf.validate(net_conf.parse(json.dumps(members)))


def test_ipv4_defaults() -> None:
    conf = valid(network="10.3.0.0/16")
    assert conf.network == IPv4Network("10.3.0.0/16")
    assert (str(conf.subnet_min), str(conf.subnet_max), conf.subnet_len) == ("10.3.1.0", "10.3.255.0", 24)
    assert (conf.enable_ipv4, conf.enable_ipv6, conf.enable_nftables) == (True, False, False)
    assert (conf.backend_type, conf.backend_options) == ("udp", {})


def test_ipv6_only_defaults() -> None:
    conf = valid(EnableIPv4=False, EnableIPv6=True, IPv6Network="fc00::/48")
    assert (conf.ipv6_subnet_min, conf.ipv6_subnet_max) == (IPv6Address("fc00:0:0:1::"), IPv6Address("fc00:0:0:ffff::"))
    assert conf.ipv6_subnet_len == 64
    assert conf.network is None and conf.subnet_min is None


def test_dual_stack_completes_both() -> None:
    conf = valid(Network="10.3.0.0/16", EnableIPv6=True, IPv6Network="fc00::/48")
    assert (conf.subnet_len, conf.ipv6_subnet_len) == (24, 64)


def test_example_of_flannels_documentation() -> None:
    text = """{"Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0",
               "Backend": {"Type": "udp", "Port": 7890}}"""
    conf = net_conf.validate(net_conf.parse(text))
    assert (str(conf.subnet_min), str(conf.subnet_max), conf.subnet_len) == ("10.10.0.0", "10.99.0.0", 20)
    assert (conf.backend_type, conf.backend_options) == ("udp", {"port": 7890})


@pytest.mark.parametrize(
    ("network", "length"),
    [("10.0.0.0/8", 24), ("10.0.0.0/22", 24), ("10.0.0.0/23", 25), ("10.0.0.0/27", 29), ("10.0.0.0/28", 30)],
)
def test_default_subnet_len(network: str, length: int) -> None:
    assert valid(Network=network).subnet_len == length


@pytest.mark.parametrize(
    ("network", "length"), [("fc00::/48", 64), ("fc00::/62", 64), ("fc00::/63", 65), ("fc00::/124", 126)]
)
def test_default_ipv6_subnet_len(network: str, length: int) -> None:
    assert valid(EnableIPv4=False, EnableIPv6=True, IPv6Network=network).ipv6_subnet_len == length


def test_host_bits_are_cleared() -> None:
    assert valid(Network="10.3.1.1/16").network == IPv4Network("10.3.0.0/16")


def test_names_match_in_any_case_and_unknown_ones_are_ignored() -> None:
    conf = net_conf.parse(b'{"NETWORK":"10.3.0.0/16","subnetlen":25,"enableNFTables":true,"Comment":[1]}')
    assert (conf.network, conf.subnet_len, conf.enable_nftables) == (IPv4Network("10.3.0.0/16"), 25, True)


@pytest.mark.parametrize(
    "text",
    [
        '{"SubnetLen":20,"SubnetLen":25}',
        '{"SubnetLen":20,"subnetlen":25}',
        '{"SubnetLen":20,"subnetlen":21,"SubnetLen":25}',
    ],
)
def test_the_last_of_several_counts(text: str) -> None:
    assert net_conf.parse(text).subnet_len == 25


def test_null_leaves_numbers_and_booleans_alone() -> None:
    conf = net_conf.parse('{"SubnetLen":null,"EnableIPv4":null,"EnableIPv6":null}')
    assert (conf.subnet_len, conf.enable_ipv4, conf.enable_ipv6) == (0, True, False)


def test_backend_type_and_option_names_are_lower_case() -> None:
    conf = net_conf.parse('{"Backend":{"TYPE":"VXLAN","VNI":4096,"DirectRouting":true}}')
    assert (conf.backend_type, conf.backend_options) == ("vxlan", {"vni": 4096, "directrouting": True})


@pytest.mark.parametrize("backend", ["{}", "null", '{"Type":""}', '{"Type":null}', '{"VNI":1}'])
def test_backend_without_a_type_is_refused(backend: str) -> None:
    with pytest.raises(BadConfig, match="unknown backend type"):
        net_conf.parse(f'{{"Backend":{backend}}}')


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"SubnetLen":"24"}', ["SubnetLen", '"24"', "whole number"]),
        ('{"SubnetLen":24.0}', ["SubnetLen", "24.0"]),
        ('{"SubnetLen":-1}', ["SubnetLen", "-1"]),
        ('{"SubnetLen":true}', ["SubnetLen", "true"]),
        ('{"EnableIPv4":"yes"}', ["EnableIPv4", '"yes"', "true or false"]),
        ('{"EnableIPv6":1}', ["EnableIPv6", "1"]),
        ('{"Network":"fc00::/48"}', ["Network", "fc00::/48", "IPv4 prefix"]),
        ('{"Network":"10.0.0.0"}', ["Network", "10.0.0.0"]),
        ('{"Network":"10.0.0.0/255.0.0.0"}', ["Network"]),
        ('{"Network":"10.0.0.0/33"}', ["Network"]),
        ('{"Network":"010.0.0.0/8"}', ["Network"]),
        ('{"Network":""}', ["Network"]),
        ('{"Network":null}', ["Network", "null"]),
        ('{"Network":167772160}', ["Network"]),
        ('{"IPv6Network":"10.0.0.0/8"}', ["IPv6Network", "IPv6 prefix"]),
        ('{"IPv6Network":"fe80::%eth0/64"}', ["IPv6Network"]),
        ('{"SubnetMin":"10.0.0.0/8"}', ["SubnetMin", "IPv4 address"]),
        ('{"SubnetMax":null}', ["SubnetMax", "null"]),
        ('{"IPv6SubnetMin":"10.0.0.1"}', ["IPv6SubnetMin", "IPv6 address"]),
        ('{"Backend":"vxlan"}', ["Backend", "not an object"]),
        ('{"Backend":{"Type":1}}', ["Backend.Type", "1"]),
        ("[]", ["not a JSON object"]),
        ("null", ["not a JSON object"]),
        ("", ["not JSON"]),
        ('{"Network":"10.0.0.0/8"} x', ["line 1 column 26"]),
        ('{"a":NaN}', ["NaN"]),
        ("[" * 100_000, ["nested"]),
        ('{"a":' + "1" * 5000 + "}", ["not JSON"]),
    ],
)
def test_bad_text_names_field_value_and_what_is_allowed(text: str, words: list[str]) -> None:
    with pytest.raises(BadConfig) as caught:
        net_conf.parse(text)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "please define a correct Network parameter in the flannel config"),
        ({"Network": "0.0.0.0/0"}, "please define a correct Network parameter"),
        ({"EnableIPv4": False}, "none defined stack"),
        ({"Network": "10.3.0.0/16", "SubnetLen": 31}, "SubnetLen must be less than /31"),
        ({"Network": "10.3.0.0/16", "SubnetLen": 17}, "network must be able to accommodate at least four subnets"),
        ({"Network": "10.3.0.0/29"}, "network is too small. Minimum useful network prefix is /28"),
        ({"Network": "10.3.0.0/16", "SubnetMin": "10.4.0.0"}, "SubnetMin is not in the range of the Network"),
        ({"Network": "10.3.0.0/16", "SubnetMax": "10.2.0.0"}, "SubnetMax is not in the range of the Network"),
        ({"Network": "10.3.0.0/16", "SubnetMin": "10.3.1.1"}, "SubnetMin is not on a SubnetLen boundary: 10.3.1.1"),
        ({"Network": "10.3.0.0/16", "SubnetMax": "10.3.1.9"}, "SubnetMax is not on a SubnetLen boundary: 10.3.1.9"),
        (
            {"Network": "10.3.0.0/16", "SubnetMin": "10.3.9.0", "SubnetMax": "10.3.8.0"},
            "SubnetMin 10.3.9.0 lies above SubnetMax 10.3.8.0",
        ),
    ],
)
def test_ipv4_that_cannot_work(members: dict[str, Any], message: str) -> None:
    with pytest.raises(BadConfig) as caught:
        valid(**members)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "please define a correct IPv6Network parameter"),
        ({"IPv6Network": "fc00::/48", "IPv6SubnetLen": 127}, "SubnetLen must be less than /127"),
        ({"IPv6Network": "fc00::/48", "IPv6SubnetLen": 49}, "accommodate at least four subnets"),
        ({"IPv6Network": "fc00::/125"}, "IPv6Network is too small. Minimum useful network prefix is /124"),
        (
            {"IPv6Network": "fc00::/48", "IPv6SubnetMin": "fd00::"},
            "IPv6SubnetMin is not in the range of the IPv6Network",
        ),
        ({"IPv6Network": "fc00::/48", "IPv6SubnetMax": "fc00::1"}, "IPv6SubnetMax is not on a SubnetLen boundary"),
    ],
)
def test_ipv6_that_cannot_work(members: dict[str, Any], message: str) -> None:
    with pytest.raises(BadConfig) as caught:
        valid(EnableIPv4=False, EnableIPv6=True, **members)
    assert message in str(caught.value)


def test_a_family_switched_off_is_not_judged() -> None:
    assert valid(Network="10.3.0.0/16", IPv6Network="fc00::/127").ipv6_subnet_len == 0


def test_load_names_the_path(tmp_path: Path) -> None:
    path = tmp_path / "net-conf.json"
    with pytest.raises(StoreError, match=str(path)):
        net_conf_file.load(path)
    path.write_text('{"Network": 5}')
    with pytest.raises(BadConfig, match=f"{path}: Network: 5"):
        net_conf_file.load(path)
    path.write_text('{"Network":"10.3.0.0/16"}')
    assert net_conf_file.load(path).subnet_min == IPv4Address("10.3.1.0")
    with pytest.raises(BadConfig, match=f"{tmp_path}: cannot be read"):
        net_conf_file.load(tmp_path)


_names = st.sampled_from(["Network", "IPv6Network", "SubnetMin", "SubnetLen", "EnableIPv6", "Backend", "x"])
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["10.0.0.0/8", "fd00::/48"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names | st.just("Type"), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary() | st.text() | st.dictionaries(_names, _json).map(json.dumps))
def test_any_text_gives_a_configuration_or_bad_config(text: str | bytes) -> None:
    with suppress(BadConfig):
        net_conf.validate(net_conf.parse(text))


@pytest.mark.parametrize("check", [net_conf.validate, net_conf.networks_only])
@pytest.mark.parametrize(
    ("field", "network", "what"),
    [
        ("Network", "127.0.0.0/8", "loopback"),
        ("Network", "127.128.0.0/16", "loopback"),
        ("Network", "64.0.0.0/2", "loopback"),
        ("Network", "224.0.0.0/8", "multicast"),
        ("Network", "0.0.0.0/8", "unspecified"),
        ("Network", "169.254.0.0/16", "link-local"),
        ("IPv6Network", "::/48", "unspecified and loopback"),
        ("IPv6Network", "::ffff:0:0/96", "IPv4-mapped"),
        ("IPv6Network", "ff00::/8", "multicast"),
        ("IPv6Network", "fe80::/16", "link-local"),
    ],
)
def test_a_network_that_no_pod_can_be_in_is_refused(
    check: Callable[[NetConf], NetConf], field: str, network: str, what: str
) -> None:
    other = {"Network": "10.5.0.0/16"} if field == "IPv6Network" else {}
    text = json.dumps({**other, field: network, "EnableIPv6": field == "IPv6Network"})
    with pytest.raises(BadConfig, match=f"^{field}: {network} overlaps .*{what}"):
        check(net_conf.parse(text))


def test_class_e_is_let_through() -> None:
    assert net_conf.validate(net_conf.parse('{"Network": "240.10.0.0/16"}')).subnet_len == 24
