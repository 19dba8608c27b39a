"""Programs at a device's ingress, by tcx and by clsact, in a namespace's own devices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyroute2 import IPRoute

from dataplane import bpf
from dataplane.bpf import Hook
from dataplane.bpf_assembler import Assembler
from dataplane.host import ingress


def program(value: int) -> bytes:
    a = Assembler()
    a.set(0, value)
    a.exit()
    return a.code()


@pytest.fixture
def netlink() -> Iterator[IPRoute]:
    with IPRoute() as route:
        yield route


@pytest.fixture
def index(netlink: IPRoute) -> Iterator[int]:
    netlink.link("add", ifname="guarded", kind="bridge")
    (found,) = netlink.link_lookup(ifname="guarded")
    yield found
    netlink.link("del", index=found)


@pytest.fixture(params=["tcx", "clsact"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """For clsact the kernel is asked for a hook that it does not know, as one before Linux 6.6 does not know tcx."""
    if request.param == "clsact":
        monkeypatch.setattr(ingress, "tc_ingress", Hook(bpf.tc_ingress.program_type, 9999))
    return str(request.param)


def test_a_program_stays_and_goes(netlink: IPRoute, index: int, means: str) -> None:
    assert not ingress.is_attached(netlink, "one", index)
    assert ingress.attach(netlink, program(-1), "one", index) == means
    assert ingress.attach(netlink, program(-1), "two", index) == means
    assert ingress.attach(netlink, program(0), "one", index) == means  # in its own place
    assert ingress.is_attached(netlink, "one", index) and ingress.is_attached(netlink, "two", index)
    assert ingress.detach(netlink, "one", index)
    assert not ingress.is_attached(netlink, "one", index)
    assert not ingress.detach(netlink, "one", index)
    assert ingress.is_attached(netlink, "two", index)
    assert ingress.detach(netlink, "two", index)
    assert [row.get("kind") for row in netlink.get_qdiscs(index=index)].count("clsact") == 0


def test_filters_of_others_stay(netlink: IPRoute, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "tc_ingress", Hook(bpf.tc_ingress.program_type, 9999))
    netlink.tc("add", "clsact", index)
    with bpf.loaded(bpf.tc_ingress, program(-1), "other") as descriptor:
        netlink.tc("add-filter", "bpf", index, fd=descriptor, name="other", parent=0xFFFFFFF3, prio=1, protocol=3)
    ingress.attach(netlink, program(-1), "one", index)
    assert ingress.detach(netlink, "one", index)
    assert [
        row.get("options").get_attr("TCA_BPF_NAME")
        for row in netlink.get_filters(index, 0, 0xFFFFFFF3)
        if row.get("options")
    ] == ["other"]
