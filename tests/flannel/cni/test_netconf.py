"""The CNI plugin's pure parts: JSON, subnet.env, the delegate's configuration."""

from __future__ import annotations

import ast
import json
import math
import socket
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataplane.cli.cni_archive import modules
from dataplane.flannel.cni import jsontext, netconf, subnetfile
from dataplane.flannel.cni.failures import Failure

env = {
    "FLANNEL_NETWORK": "10.1.0.0/16",
    "FLANNEL_SUBNET": "10.1.17.1/24",
    "FLANNEL_MTU": "1472",
    "FLANNEL_IPMASQ": "true",
}
env6 = {"FLANNEL_IPV6_NETWORK": "fd00:1::/48", "FLANNEL_IPV6_SUBNET": "fd00:1:0:17::1/64"}


def read_env(values: dict[str, str]) -> subnetfile.SubnetFile:
    return subnetfile.parse("".join(f"{name}={value}\n" for name, value in values.items()), "subnet.env")


def delegate_conf(conf: dict[str, object], values: dict[str, str] | None = None) -> dict[str, Any]:
    given = netconf.for_delegate(netconf.read(json.dumps(conf).encode()), read_env(values or env))
    document: dict[str, Any] = json.loads(jsontext.text_of(given))
    return document


def test_the_vector_of_flannels_plugin() -> None:
    """What flannel-io/cni-plugin's own test expects, byte for byte."""
    conf = netconf.read(b'{"name": "cni-flannel", "type": "flannel"}')
    assert jsontext.text_of(netconf.for_delegate(conf, read_env(env))) == (
        '{"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.1.17.0/24"}]],"routes":[{"dst":"10.1.0.0/16"}],'
        '"type":"host-local"},"isGateway":true,"mtu":1472,"name":"cni-flannel","type":"bridge"}'
    )


def test_both_families_and_several_networks() -> None:
    made = delegate_conf({"name": "n"}, {**env, **env6, "FLANNEL_NETWORK": "10.1.0.0/16,10.2.0.0/16"})
    assert made["ipam"]["ranges"] == [[{"subnet": "10.1.17.0/24"}], [{"subnet": "fd00:1:0:17::/64"}]]
    assert [route["dst"] for route in made["ipam"]["routes"]] == ["10.1.0.0/16", "10.2.0.0/16", "fd00:1::/48"]


def test_ipv6_alone() -> None:
    made = delegate_conf({"name": "n"}, {**env6, "FLANNEL_MTU": "1430", "FLANNEL_IPMASQ": "false"})
    assert made["ipam"]["ranges"] == [[{"subnet": "fd00:1:0:17::/64"}]]
    assert made["ipMasq"] is True


def test_what_is_given_stays() -> None:
    conf = {
        "name": "n",
        "cniVersion": "0.3.1",
        "delegate": {"mtu": 1400, "ipMasq": True, "isGateway": False, "hairpinMode": True, "bridge": "br7"},
        "ipam": {"type": "mine", "dataDir": "/d", "routes": [{"dst": "198.51.100.0/24", "gw": "10.1.17.9"}]},
        "runtimeConfig": {"portMappings": [{"hostPort": 1}]},
        "args": {"cni": {"ips": ["10.1.17.7"]}},
    }
    made = delegate_conf(conf)
    ipam = made.pop("ipam")
    assert made == {
        **conf["delegate"],  # type: ignore[dict-item]
        "type": "bridge",
        "name": "n",
        "cniVersion": "0.3.1",
        "runtimeConfig": conf["runtimeConfig"],
        "args": conf["args"],
    }
    assert ipam["type"] == "mine" and ipam["dataDir"] == "/d"
    assert ipam["routes"] == [{"dst": "198.51.100.0/24", "gw": "10.1.17.9"}, {"dst": "10.1.0.0/16"}]


def test_only_a_bridge_is_made_a_gateway() -> None:
    assert "isGateway" not in delegate_conf({"name": "n", "delegate": {"type": "ptp"}})


@pytest.mark.parametrize(
    ("conf", "code", "says"),
    [
        ({}, 7, 'network name ""'),
        ({"name": "../up"}, 7, "network name"),
        ({"name": "n", "cniVersion": "9.9.9"}, 1, "incompatible"),
        ({"name": "n", "cniVersion": 1}, 1, "incompatible"),
        ({"name": "n", "cniVersion": []}, 1, "incompatible"),
        ({"name": "n", "delegate": {"name": "x"}}, 7, "'name'"),
        ({"name": "n", "delegate": {"ipam": {}}}, 7, "'ipam'"),
        ({"name": "n", "delegate": {"type": 5}}, 7, "5, not a plugin's name"),
        ({"name": "n", "delegate": "bridge"}, 7, "not an object"),
        ({"name": "n", "subnetFile": ["a"]}, 7, "not a string"),
        ({"name": "n", "ipam": {"routes": {"dst": "0.0.0.0/0"}}}, 7, "ipam.routes"),
        ({"name": "n", "ipam": {"routes": ["0.0.0.0/0"]}}, 7, "ipam.routes"),
    ],
)
def test_configurations_that_are_refused(conf: dict[str, object], code: int, says: str) -> None:
    with pytest.raises(Failure, match=says) as refused:
        delegate_conf(conf)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"FLANNEL_NETWORK": None}, "missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK"),
        ({"FLANNEL_SUBNET": None, "FLANNEL_MTU": None}, "FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU"),
        ({"FLANNEL_IPMASQ": None}, "missing FLANNEL_IPMASQ"),
        ({"FLANNEL_MTU": "-50"}, "FLANNEL_MTU=-50 is not a number of bytes"),
        ({"FLANNEL_MTU": "²"}, "not a number of bytes"),
        ({"FLANNEL_SUBNET": "10.1.17.1"}, "address/length"),
        ({"FLANNEL_SUBNET": "10.1.17.1/33"}, "address/length"),
        ({"FLANNEL_SUBNET": "10.1.17.1/24,10.1.18.1/24"}, "address/length"),
        ({"FLANNEL_SUBNET": "fd00::1/64"}, "address/length"),
        ({"FLANNEL_NETWORK": "10.1.0.0/16,"}, "or several"),
    ],
)
def test_files_that_are_refused_say_what_and_where_to_look(change: dict[str, str | None], says: str) -> None:
    with pytest.raises(Failure, match=says) as refused:
        read_env({name: value for name, value in (env | change).items() if value is not None})
    assert refused.value.code == 100
    assert "kubectl -n flannel-dataplane logs" in refused.value.details


@pytest.mark.parametrize(("text", "masq"), [("true", True), ("false", False), ("TRUE", False), ("1", False)])
def test_masquerade_is_exactly_true(text: str, masq: bool) -> None:
    assert read_env({**env, "FLANNEL_IPMASQ": text}).ip_masq is masq


@given(st.ip_addresses(), st.integers(0, 32))
def test_prefixes_are_those_of_the_ipaddress_module(address: Any, length: int) -> None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    made = subnetfile.prefix(f"{address}/{length}", family)
    assert ip_network(made) == ip_network((address, length), strict=False)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_json_goes_there_and_back(value: Any) -> None:
    assert jsontext.parse(jsontext.text_of(value)) == value
    assert json.loads(jsontext.text_of(value)) == value


@given(st.text(alphabet='[]{}",:0123456789.eE-+ tfnrulasNaI\\\n', max_size=20) | st.text())
@example("1e999")
@example("NaN")
@example("[" * 100_000)
@example("1 2")
def test_json_is_what_the_json_module_takes_it_for(text: str) -> None:
    try:
        expected = json.loads(text, parse_constant=pytest.fail)
        json.dumps(expected, allow_nan=False)
    except (ValueError, RecursionError, pytest.fail.Exception):
        with pytest.raises(ValueError):
            jsontext.parse(text)
    else:
        found = jsontext.parse(text)
        assert found == expected and type(found) is type(expected)
        assert not (isinstance(found, float) and math.isinf(found))


@given(st.text(alphabet="ab9./\\-_:\n\0é", max_size=8))
@example("..")
@example(".")
def test_a_name_is_one_part_of_a_path(text: str) -> None:
    if netconf.is_name(text):
        assert Path("/d", text).name == text and Path("/d", text).resolve().parent == Path("/d")
        assert ":" not in text and not text.startswith(".")


@given(st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
def test_any_input_is_read_or_refused(text: bytes) -> None:
    try:
        netconf.read(text)
    except Failure as failure:
        assert failure.code in {1, 6, 7} and failure.msg


def test_the_modules_are_for_python_3_9_and_import_little() -> None:
    """Each further import is paid at every pod's start and end; add to this list with a measurement."""
    usual = {"__future__", "_json", "_signal", "_socket", "os", "stat", "sys"}
    seldom = {"json.decoder", "json.encoder", "json.scanner"}  # where _json is missing or has refused something
    for name, source in modules().items():
        tree = ast.parse(source, name, feature_version=(3, 9))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found = {str(node.module)}
            else:
                continue
            assert all(
                module in usual | seldom or module.startswith(("dataplane.cni", "dataplane.flannel.cni"))
                for module in found
            ), (
                name,
                found,
            )
