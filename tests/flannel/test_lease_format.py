"""Lease keys and values byte for byte as flanneld has them (flannel pkg/subnet/subnet_test.go, registry_test.go)."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.errors import BadLease, longest_shown, printable
from dataplane.flannel import lease_format
from dataplane.model import Lease, LeaseAttrs


def test_keys_both_ways() -> None:
    subnet, ipv6_subnet = IPv4Network("10.12.13.0/24"), IPv6Network("fd00:12:13::/56")
    assert lease_format.format_key(subnet) == "10.12.13.0-24"
    assert lease_format.format_key(subnet, ipv6_subnet) == "10.12.13.0-24&fd00:12:13::-56"
    assert lease_format.parse_key("10.12.13.0-24") == (subnet, None)
    assert lease_format.parse_key("10.12.13.0-24&fd00:12:13::-56") == (subnet, ipv6_subnet)
    assert lease_format.parse_key("/coreos.com/network/subnets/10.12.13.0-24") == (subnet, None)


def test_key_is_the_models() -> None:
    lease = Lease(IPv4Network("10.1.2.0/24"), IPv6Network("fd00:1::/64"), LeaseAttrs())
    assert lease_format.format_key(IPv4Network("10.1.2.0/24"), IPv6Network("fd00:1::/64")) == lease.key


@pytest.mark.parametrize(
    "text",
    [
        "10",
        "10.12.13.0",
        "10.12.13-24",
        "10.12.13.300-24",
        "10.12.13.0-24hi",
        "&2001::-56",
        "10.12.13.0-24&:12:13:-56",
        "10.12.13.0-24&20011::-56",
        "10.12.13.0-24&2001-56",
        "10.12.13.0-24&2001::",
        "10.12.13.0-24&2001::-56hi",
        "10.12.13.0-32",
        "10.12.13.0-24&2001::-128",
        "10.12.13.5-24",
        "10.12.13.0-24\n",
        "10.12.13.0-٢٤",
        "10.12.13.0-" + "2" * 5000,
        "",
    ],
)
def test_what_is_not_a_key(text: str) -> None:
    with pytest.raises(BadLease) as caught:
        lease_format.parse_key(text)
    assert caught.value.key == printable(text)


_values = [
    (LeaseAttrs(IPv4Address("1.2.3.4")), b'{"PublicIP":"1.2.3.4","PublicIPv6":null}'),
    (
        LeaseAttrs(IPv4Address("1.2.3.4"), backend_type="host-gw"),
        b'{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"host-gw"}',
    ),
    (
        LeaseAttrs(
            IPv4Address("192.168.64.3"),
            backend_type="vxlan",
            backend_data={"VNI": 1, "VtepMAC": "c6:d2:32:6f:8f:44"},
        ),
        (
            b'{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan",'
            b'"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}'
        ),
    ),
    (
        LeaseAttrs(
            IPv4Address("192.168.64.3"),
            IPv6Address("fd00::3"),
            "vxlan",
            {"VNI": 1, "VtepMAC": "c6:d2:32:6f:8f:44"},
            {"VNI": 1, "VtepMAC": "0e:11:22:33:44:55"},
        ),
        (
            b'{"PublicIP":"192.168.64.3","PublicIPv6":"fd00::3","BackendType":"vxlan",'
            b'"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"},'
            b'"BackendV6Data":{"VNI":1,"VtepMAC":"0e:11:22:33:44:55"}}'
        ),
    ),
    # Go escapes < > & and the two line separators inside strings.
    (
        LeaseAttrs(IPv4Address("1.2.3.4"), backend_type="extension", backend_data="a<b>&\u2028é\n"),
        '{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"extension",'
        '"BackendData":"a\\u003cb\\u003e\\u0026\\u2028é\\n"}'.encode(),
    ),
    (LeaseAttrs(), b'{"PublicIP":"0.0.0.0","PublicIPv6":null}'),
]


@pytest.mark.parametrize(("attrs", "value"), _values)
def test_values_both_ways(attrs: LeaseAttrs, value: bytes) -> None:
    assert lease_format.encode_value(attrs) == value
    assert lease_format.decode_value("k", value) == attrs


def test_reading_is_tolerant_where_go_is() -> None:
    text = b'{"publicip":"9.9.9.9","PUBLICIP":"::ffff:1.2.3.4","BackendType":null,"More":1}'
    assert lease_format.decode_value("k", text) == LeaseAttrs(IPv4Address("1.2.3.4"))
    assert lease_format.decode_value("k", "{}") == LeaseAttrs()


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (b"", "not JSON"),
        (b"null", "not a JSON object"),
        (b'{"PublicIP":null}', "PublicIP"),
        (b'{"PublicIP":""}', "PublicIP"),
        (b'{"PublicIP":16909060}', "PublicIP"),
        (b'{"PublicIP":"fd00::3"}', "PublicIP"),
        (b'{"PublicIP":"1.2.3.4","PublicIPv6":"1.2.3.4"}', "PublicIPv6"),
        (b'{"PublicIP":"1.2.3.4","BackendType":7}', "BackendType"),
        (b'{"BackendData":' + b"[" * 100_000, "nested"),
    ],
)
def test_bad_values_are_named(value: bytes, word: str) -> None:
    with pytest.raises(BadLease, match=word) as caught:
        lease_format.decode_value("10.1.2.0-24", value)
    assert caught.value.key == "10.1.2.0-24"


@pytest.mark.parametrize("value", [value for _, value in _values])
def test_truncated_anywhere_is_bad(value: bytes) -> None:
    for end in range(len(value)):
        with pytest.raises(BadLease):
            lease_format.decode_value("k", value[:end])


_data = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc<&", max_size=3), inner, max_size=3),
    max_leaves=6,
)
_real_ipv4 = st.ip_addresses(v=4).filter(lambda address: not address.is_unspecified)
_real_ipv6 = st.builds(IPv6Address, st.integers(2**64, 2**128 - 1))  # above the mapped IPv4 addresses
_attrs = st.builds(
    LeaseAttrs,
    st.none() | _real_ipv4,
    st.none() | _real_ipv6,
    st.sampled_from(["", "vxlan", "host-gw", "<x>"]),
    st.none() | _data,
    st.none() | _data,
)


@given(_attrs)
def test_round_trip_of_values(attrs: LeaseAttrs) -> None:
    assert lease_format.decode_value("k", lease_format.encode_value(attrs)) == attrs


@given(st.ip_addresses(v=4), st.integers(0, 31), st.none() | st.tuples(st.ip_addresses(v=6), st.integers(0, 127)))
def test_round_trip_of_keys(address: IPv4Address, length: int, ipv6: tuple[IPv6Address, int] | None) -> None:
    subnet = IPv4Network((address, length), strict=False)
    ipv6_subnet = None if ipv6 is None else IPv6Network(ipv6, strict=False)
    assert lease_format.parse_key(lease_format.format_key(subnet, ipv6_subnet)) == (subnet, ipv6_subnet)


@given(st.binary() | st.text())
def test_any_value_gives_attributes_or_bad_lease(value: bytes | str) -> None:
    with suppress(BadLease):
        lease_format.decode_value("k", value)


@given(st.text() | st.from_regex(r"[0-9.]{1,12}-[0-9]{1,3}(&[a-f0-9:]{1,12}-[0-9]{1,3})?", fullmatch=True))
def test_any_key_gives_subnets_or_bad_lease(text: str) -> None:
    try:
        subnet, ipv6_subnet = lease_format.parse_key(text)
    except BadLease:
        return
    assert lease_format.parse_key(lease_format.format_key(subnet, ipv6_subnet)) == (subnet, ipv6_subnet)


@given(st.text(st.characters()) | st.text("\x1b\n", min_size=390, max_size=2000))
def test_printable_text_is_one_short_line_and_stays_it(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() and len(shown) <= longest_shown
    assert printable(shown) == shown
    assert shown == text or not text.isprintable() or len(text) > longest_shown
