"""Subnet choice against a slow and obvious twin, plus flannel's cases (flannel local_manager_test.go)."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.errors import OutOfSubnets
from dataplane.flannel import net_conf
from dataplane.model import Lease, LeaseAttrs, NetConf
from dataplane.stores.choice import Choice, Span, choose, compatible, span

conf = net_conf.validate(net_conf.parse('{"Network":"10.3.0.0/16"}'))
dual = net_conf.validate(net_conf.parse('{"Network":"10.3.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48"}'))


def lease(subnet: str | None, ipv6_subnet: str | None = None, expires: float | None = 1.0) -> Lease:
    return Lease(
        IPv4Network(subnet) if subnet else None,
        IPv6Network(ipv6_subnet) if ipv6_subnet else None,
        LeaseAttrs(IPv4Address("192.0.2.1")),
        expires,
    )


def spans(*networks: str) -> list[Span]:
    return [span(IPv4Network(network)) for network in networks]


def draw(
    conf: NetConf,
    own: Lease | None = None,
    previous: Lease | None = None,
    taken: list[Span] | None = None,
    ipv6_taken: list[Span] | None = None,
    seed: int = 1,
) -> Choice:
    return choose(conf, own, previous, taken or [], ipv6_taken or [], Random(seed))


def test_new_subnet_is_one_of_the_first_hundred() -> None:
    drawn = {draw(conf, seed=seed).subnet for seed in range(2000)}
    assert drawn == {IPv4Network(f"10.3.{third}.0/24") for third in range(1, 101)}


def test_own_lease_is_kept_a_reservation_too() -> None:
    for expires in (1.0, None):
        own = lease("10.3.200.0/24", expires=expires)
        assert draw(conf, own, lease("10.3.7.0/24")) == Choice(own.subnet, None, own=True)


@pytest.mark.parametrize(
    "own",
    [
        lease("10.4.1.0/24"),
        lease("10.3.0.0/24"),
        lease("10.3.1.0/25"),
        lease("10.3.1.0/24", "fc00:0:0:1::/64"),
        lease(None, "fc00:0:0:1::/64"),
    ],
)
def test_an_incompatible_own_lease_gives_way(own: Lease) -> None:
    choice = draw(conf, own, lease("10.3.77.0/24"))
    assert choice == Choice(IPv4Network("10.3.77.0/24"), None, own=False)


def test_dual_stack_needs_both_parts() -> None:
    assert compatible(dual, lease("10.3.1.0/24", "fc00:0:0:1::/64"))
    assert not compatible(dual, lease("10.3.1.0/24"))
    assert not compatible(dual, lease("10.3.1.0/24", "fc00::/64"))
    choice = draw(dual, lease("10.3.1.0/24"))
    assert choice.subnet is not None and choice.ipv6_subnet is not None and not choice.own


def test_previous_subnet_is_taken_up_when_free() -> None:
    previous = lease("10.3.177.0/24")
    assert draw(conf, previous=previous) == Choice(previous.subnet, None, own=False)


@pytest.mark.parametrize("holder", ["10.3.177.0/24", "10.3.177.128/25", "10.3.176.0/20"])
def test_previous_subnet_that_overlaps_anything_is_not_stolen(holder: str) -> None:
    choice = draw(conf, previous=lease("10.3.177.0/24"), taken=spans(holder))
    assert choice.subnet is not None and not choice.subnet.overlaps(IPv4Network(holder))


def test_previous_pair_is_dropped_when_its_ipv6_part_is_taken() -> None:
    previous = lease("10.3.177.0/24", "fc00:0:0:2::/64")
    choice = draw(dual, previous=previous, ipv6_taken=[span(IPv6Network("fc00:0:0:2::/64"))])
    assert choice.ipv6_subnet != previous.ipv6_subnet


def test_previous_outside_the_configuration_is_ignored() -> None:
    choice = draw(conf, previous=lease("10.9.1.0/24"))
    assert choice.subnet is not None and compatible(conf, lease(str(choice.subnet)))


def test_out_of_subnets_says_where() -> None:
    small = net_conf.validate(net_conf.parse('{"Network":"10.3.0.0/22"}'))
    taken = spans("10.3.1.0/24", "10.3.2.128/25")
    assert draw(small, taken=taken).subnet == IPv4Network("10.3.3.0/24")
    with pytest.raises(OutOfSubnets, match=r"out of subnets: every /24 from 10\.3\.1\.0 to 10\.3\.3\.0"):
        draw(small, taken=[*taken, *spans("10.3.3.7/32")])


def test_ipv6_only() -> None:
    only = net_conf.validate(net_conf.parse('{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48"}'))
    choice = draw(only, taken=spans("0.0.0.0/0"))
    assert choice.subnet is None
    assert compatible(only, Lease(None, choice.ipv6_subnet, LeaseAttrs()))


def slow_free(conf: NetConf, taken: list[IPv4Network]) -> list[IPv4Network]:
    assert conf.network is not None and conf.subnet_min is not None and conf.subnet_max is not None
    return [
        subnet
        for subnet in conf.network.subnets(new_prefix=conf.subnet_len)
        if conf.subnet_min <= subnet.network_address <= conf.subnet_max
        and not any(subnet.overlaps(other) for other in taken)
    ][:100]


@given(
    st.lists(
        st.tuples(st.integers(0, 0x1FF), st.integers(20, 32)).map(
            lambda pair: IPv4Network((0x0A030000 - 0x1000 + (pair[0] << 5), pair[1]), strict=False)
        ),
        max_size=30,
    ),
    st.integers(22, 28),
    st.integers(0, 5),
    st.integers(),
)
def test_same_candidates_as_the_slow_twin(taken: list[IPv4Network], length: int, skip: int, seed: int) -> None:
    small = net_conf.validate(net_conf.parse(f'{{"Network":"10.3.0.0/20","SubnetLen":{length}}}'))
    assert small.subnet_min is not None and small.subnet_max is not None
    lowest = min(small.subnet_min + skip * 2 ** (32 - length), small.subnet_max)
    small = replace(small, subnet_min=lowest)
    free = slow_free(small, taken)
    if not free:
        with pytest.raises(OutOfSubnets):
            draw(small, taken=[span(network) for network in taken])
        return

    class Last(Random):
        def choice(self, seq):  # type: ignore[no-untyped-def]
            assert [IPv4Network((base, length)) for base in seq] == free
            return seq[-1]

    assert choose(small, None, None, [span(n) for n in taken], [], Last(seed)).subnet == free[-1]


def test_ten_thousand_leases_take_milliseconds() -> None:
    large = net_conf.validate(net_conf.parse('{"Network":"10.0.0.0/8","EnableIPv6":true,"IPv6Network":"fd00::/16"}'))
    assert large.subnet_min is not None and large.ipv6_subnet_min is not None
    first, ipv6_first = int(large.subnet_min), int(large.ipv6_subnet_min)
    taken = [(first + 256 * i, first + 256 * i + 255) for i in range(10_000)]
    ipv6_taken = [(ipv6_first + (2 * i << 64), ipv6_first + (2 * i << 64) + 2**64 - 1) for i in range(10_000)]
    ipv6_taken.append(span(IPv6Network("fd00::/24")))  # as long as 2**40 subnets
    Random(5).shuffle(taken)
    start = time.process_time()
    choice = draw(large, taken=taken, ipv6_taken=ipv6_taken)
    spent = time.process_time() - start
    assert choice.subnet is not None and choice.ipv6_subnet is not None
    assert int(choice.subnet.network_address) >= first + 256 * 10_000
    assert choice.ipv6_subnet.subnet_of(IPv6Network("fd00::/16"))
    assert not choice.ipv6_subnet.overlaps(IPv6Network("fd00::/24"))
    assert spent < 0.5  # 10 to 20 ms on a 2-core VM; anything quadratic takes minutes
