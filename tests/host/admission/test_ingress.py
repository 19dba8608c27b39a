"""Programs at a device's ingress, by tcx and by clsact, in a namespace's own devices."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest
from pyroute2 import IPRoute, NetlinkError

from dataplane.bpf import calls
from dataplane.bpf.assembler import Assembler
from dataplane.host import command
from dataplane.host.admission import ingress
from dataplane.host.admission.checks import Guarded
from dataplane.host.admission.device_filter import Admission
from dataplane.host.netlink import Host
from dataplane.keepers.admission import AdmissionKeeper
from dataplane.model import Peer, VxlanLink
from dataplane.observe.state import DeviceState, NodeState


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


@pytest.fixture(params=["clsact", "tcx"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """For tcx clsact is refused, as by a kernel without cls_bpf."""
    if request.param == "tcx":

        def refuse(*_: object) -> None:
            raise NetlinkError(errno.ENOENT)

        monkeypatch.setattr(ingress, "_attach_clsact", refuse)
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


def test_filters_of_others_stay(netlink: IPRoute, index: int) -> None:
    """One on the way out, and one that has the first priority on the way in."""
    netlink.tc("add", "clsact", index)
    with calls.loaded(calls.tc_ingress, program(-1), "other") as descriptor:
        for parent in (0xFFFFFFF2, 0xFFFFFFF3):
            netlink.tc("add-filter", "bpf", index, fd=descriptor, name="other", parent=parent, prio=1, protocol=8)
    assert ingress.attach(netlink, program(-1), "one", index) == "clsact"
    assert ingress.attach(netlink, program(0), "one", index) == "clsact"
    assert sorted(names(netlink, index, 0xFFFFFFF2)) == ["one", "other"]
    assert ingress.detach(netlink, "one", index)
    assert [names(netlink, index, parent) for parent in (0xFFFFFFF2, 0xFFFFFFF3)] == [["other"], ["other"]]


def names(netlink: IPRoute, index: int, parent: int) -> list[str]:
    rows = netlink.get_filters(index, 0, parent)
    return [row.get("options").get_attr("TCA_BPF_NAME") for row in rows if row.get("options")]


def test_without_bpf_and_tools_it_is_said_that_nobody_is_checked(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And once the kernel permits it, senders are checked and nothing more is said."""
    link = VxlanLink("flannel.1", 1, 8472, IPv4Address("192.0.2.1"), "guarded", 1450)
    subnet = IPv4Network("10.244.2.0/24")
    wanted = {subnet: Peer(subnet, IPv4Address("192.0.2.2"), bytes.fromhex("020000000002"))}
    state, seen = NodeState(), DeviceState("flannel.1", 1450)

    async def body() -> None:
        host = Host()
        guarded = Guarded(link, bytes.fromhex("020000000001"), IPv4Network("10.244.1.0/24"))
        keeper = AdmissionKeeper(guarded, wanted, host, state, seen)
        with monkeypatch.context() as patch:
            patch.setattr(calls, "_bpf", refuse)
            patch.setattr(command, "_path", "")
            await keeper.ensure(index)
            assert seen.admission == "none"
            (problem,) = (text for text in state.problems() if "senders" in text)
            assert problem.startswith("flannel.1: the kernel does not check senders (none): cannot make the BPF map")
            assert problem.endswith("the command nft is not installed")
            assert keeper.drops() == {"receive_unknown_sender": 0}
        await keeper.ensure(index)
        assert seen.admission == "full"
        assert not any("senders" in text for text in state.problems())
        assert keeper.drops()["receive_unknown_sender"] == 0
        await keeper.remove()
        await host.close()

    def refuse(command: int, attr: bytes, what: str) -> int:
        raise calls.BpfError(what, errno.EPERM)

    asyncio.run(body())


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EINVAL])
def test_where_there_is_no_bpf_there_is_nothing_to_detach(
    netlink: IPRoute, index: int, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Userspace asks too, when it takes a kernel device's place, and may not fail at it."""

    def refuse(command: int, attr: bytes, what: str) -> int:
        raise calls.BpfError(what, code)

    monkeypatch.setattr(calls, "_bpf", refuse)
    assert not ingress.detach(netlink, "one", index)
    assert not ingress.is_attached(netlink, "one", index)


def test_older_kernels_get_the_part_that_they_understand(
    netlink: IPRoute, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their verifier does not know the fields about trains and super-packets; what is left must be accepted too."""
    lengths: list[int] = []
    attach = ingress.attach

    def refuse_twice(netlink: IPRoute, program: bytes, name: str, index: int) -> str:
        lengths.append(len(program))
        if len(lengths) < 3:
            raise calls.BpfError("load a BPF program", errno.EACCES)
        return attach(netlink, program, name, index)

    monkeypatch.setattr(ingress, "attach", refuse_twice)
    link = VxlanLink("flannel.1", 1, 8472, IPv4Address("192.0.2.1"), "guarded", 1450)
    made = Admission(Guarded(link, bytes(6), IPv4Network("10.244.1.0/24")))
    assert made.attach(netlink, index) == "clsact"
    assert made.is_attached(netlink, index)
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) == 3
    made.close()


def test_the_services_capabilities_are_enough(index: int) -> None:
    """Those of deploy/: the program is accepted, attached, found again and replaced."""
    held = "-all,+net_admin,+net_raw,+bpf"
    code = """
import sys
from ipaddress import ip_address, ip_network
from pyroute2 import IPRoute
from dataplane.host.admission.device_filter import Admission
from dataplane.host.admission.checks import Guarded
from dataplane.model import VxlanLink
with IPRoute() as netlink:
    for local, own in (("192.0.2.1", "10.244.1.0/24"), ("2001:db8::1", "fd00:244:0:1::/64")):
        link = VxlanLink("flannel-v6.1", 1, 8472, ip_address(local), "guarded", 1450)
        made = Admission(Guarded(link, bytes(6), ip_network(own)))
        print(made.attach(netlink, int(sys.argv[1])), made.is_attached(netlink, int(sys.argv[1])))
"""
    words = ["setpriv", f"--bounding-set={held}", f"--inh-caps={held}", sys.executable, "-c", code, str(index)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=200)
    assert done.stdout == "clsact True\nclsact True\n", done.stderr
