"""Each check on captured text and made-up nodes: what it calls well, what it names, and the command that it shows."""

from __future__ import annotations

import errno
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from dataplane.doctor.daemon import judge_clock, judge_daemon
from dataplane.doctor.finding import Level
from dataplane.doctor.forwarding import judge_forwarding
from dataplane.doctor.kernel import judge_release, judge_vxlan
from dataplane.doctor.leftovers import judge_bridge, judge_devices, judge_files
from dataplane.doctor.mtu import check_mtu
from dataplane.doctor.overlaps import judge_routes
from dataplane.doctor.port import Bound, Holder, VxlanDevice, judge_port, read_bound
from dataplane.doctor.rights import check_tun, judge_rights, judge_tun
from dataplane.doctor.versions import judge_tools
from dataplane.flannel.net_conf import parse, validate
from dataplane.host.links import Address, Link
from dataplane.host.routes import Route
from tests.doctor.made import node, now, one, said, status

# rights


def test_the_tun_device_node(tmp_path: Path) -> None:
    assert "No such file" in one([check_tun(tmp_path / "tun")], "FAIL", "no TUN device can be made").text
    (tmp_path / "tun").touch()
    one([check_tun(tmp_path / "tun")], "FAIL", "is not the character device 10:200")
    assert judge_tun(errno.EINVAL).level is Level.ok
    one([judge_tun(errno.EPERM)], "FAIL", "CAP_NET_ADMIN")
    one([judge_tun(errno.EBADFD)], "WARN", "TUNSETIFF")


def test_capabilities_are_named() -> None:
    text = "Name:\tpython\nCapPrm:\t000001ffffffffff\nCapEff:\t{:016x}\nCapBnd:\t000001ffffffffff\n"
    assert judge_rights(text.format(1 << 12 | 1 << 13 | 1 << 39), 0)[0].level is Level.ok
    missing = judge_rights(text.format(1 << 12), 0)
    assert [found.text.split(" has no ")[1].split(",")[0] for found in missing] == ["CAP_NET_RAW", "CAP_BPF"]
    missing = judge_rights(text.format(0), 1000)
    assert {found.mend for found in missing} == {"sudo dataplane doctor"}
    assert missing[0].level is Level.fail


# port

udp = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 4897: 010200C0:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 38543581 2 00000000099e6657 0
"""
udp6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 4897: B80D0120000000000000000001000000:2118 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 77 2 0000000000000000 0
"""


def test_bound_ports_are_read() -> None:
    assert read_bound(udp) == [Bound(ip_address("192.0.2.1"), 8472, 38543581)]
    assert read_bound(udp6) == [Bound(ip_address("2001:db8::1"), 8472, 77)]


@pytest.mark.parametrize(
    ("document", "bound", "held", "devices", "level", "words"),
    [
        (None, [], {}, [], "OK", "is free"),
        (None, ["0.0.0.0"], {1: [Holder(5, "nc")]}, [], "FAIL", "in use by nc, pid 5, at 0.0.0.0"),
        (None, ["0.0.0.0"], {}, [], "FAIL", "not seen from here"),
        (None, ["0.0.0.0"], {}, [VxlanDevice("other", 7, 8472)], "FAIL", "a kernel vxlan device other (VNI 7)"),
        (None, ["0.0.0.0"], {}, [VxlanDevice("flannel.1", 1, 8472)], "WARN", "left by an earlier daemon"),
        (None, ["192.0.2.1"], {1: [Holder(1, "systemd")]}, [], "WARN", "kept for the service's next start"),
        ("status", ["192.0.2.1"], {1: [Holder(100, "python3")]}, [], "OK", "in use by the daemon, pid 100"),
        ("status", ["192.0.2.1"], {}, [], "OK", "the daemon if its status is right"),
        ("status", ["0.0.0.0"], {}, [VxlanDevice("flannel.1", 1, 8472)], "OK", "kernel vxlan device flannel.1"),
        ("status", ["192.0.2.1"], {1: [Holder(1, "systemd"), Holder(100, "python3")]}, [], "OK", "the daemon, pid 100"),
        ("status", ["0.0.0.0"], {1: [Holder(5, "nc")]}, [], "FAIL", "nc, pid 5, at 0.0.0.0"),
        (None, ["127.0.0.1"], {1: [Holder(5, "nc")]}, [], "WARN", "the kernel's vxlan cannot"),
    ],
)
def test_who_has_the_port(
    document: str | None,
    bound: list[str],
    held: dict[int, list[Holder]],
    devices: list[VxlanDevice],
    level: str,
    words: str,
) -> None:
    rows = [Bound(ip_address(address), 8472, 1) for address in bound]
    one(judge_port(node(status() if document else None), rows, held, devices), level, "UDP port 8472", words)


def test_a_port_that_may_not_be_ours_is_a_warning() -> None:
    rows = [Bound(ip_address("0.0.0.0"), 8285, 1)]
    found = judge_port(node(ports=(8472, 8285)), rows, {1: [Holder(5, "nc")]}, [])
    assert [finding.level.value for finding in found] == ["OK", "WARN"]


def test_a_second_program_on_the_daemons_port_is_named_beside_it() -> None:
    rows = [Bound(ip_address("192.0.2.1"), 8472, 1), Bound(ip_address("127.0.0.1"), 8472, 2)]
    held = {1: [Holder(100, "python3")], 2: [Holder(5, "nc")]}
    one(judge_port(node(status()), rows, held, []), "WARN", "nc, pid 5, at 127.0.0.1", "beside the daemon, pid 100")


# settings, MTU, leftovers, routes


def test_forwarding_and_br_netfilter() -> None:
    well = {"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/rp_filter": "2", "net/ipv4/conf/eth0/rp_filter": "1"}
    one(judge_forwarding(node(), well.get), "OK")
    assert one(judge_forwarding(node(), (well | {"net/ipv4/ip_forward": "0"}).get), "FAIL", "ip_forward is 0").mend
    both = node(networks=(ip_network("10.244.0.0/16"), ip_network("fd00:244::/48")))
    off = well | {"net/ipv6/conf/all/forwarding": "0"}
    found = one(judge_forwarding(both, off.get), "FAIL", "net.ipv6.conf.all.forwarding is 0")
    assert found.mend == "sysctl -w net.ipv6.conf.all.forwarding=1"
    bridged = node(links=(*node().links, Link(9, "cni0", 1450, True, "bridge")))
    one(judge_forwarding(bridged, well.get), "WARN", "br_netfilter is not loaded")
    strict = node(status())
    values = well | {"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/flannel.1/rp_filter": "1"}
    found_both = judge_forwarding(strict, values.get)
    assert [finding.mend for finding in found_both] == [
        "sysctl -w net.ipv4.conf.eth0.rp_filter=2",
        "sysctl -w net.ipv4.conf.flannel/1.rp_filter=2",
    ]


def test_mtu() -> None:
    assert "flannel.1 1450" in one(check_mtu(node(status())), "OK").text
    narrow = node(status(), links=(Link(2, "eth0", 1450, True), Link(7, "flannel.1", 1450, True)))
    assert one(check_mtu(narrow), "FAIL", "flannel.1 has MTU 1450", "that is 1500").mend.endswith("flannel.1 mtu 1400")
    wide = node(status(), links=(*node(status()).links, Link(9, "cni0", 1500, True)))
    one(check_mtu(wide), "WARN", "cni0 has MTU 1500")
    one(check_mtu(node(external="eth9")), "FAIL", "eth9 is gone")
    none = node(external="", external_problem="no default route")
    one(check_mtu(none), "FAIL", "no default route")


def test_leftovers() -> None:
    files = [("10-calico.conflist", False), ("10-flannel.conflist", True), ("99-loopback.conf", False)]
    assert "10-calico.conflist sorts before" in one(judge_files(files), "FAIL").text
    assert judge_files(files[1:]) == []
    assert judge_files(files[:1]) == []  # none of flannel's: nothing to be before
    links = (Link(3, "cali12ab", 1500, True), Link(4, "kube-ipvs0", 1500, False), Link(5, "tunl0", 1480, False))
    one(judge_devices(node(links=links), []), "WARN", "cali12ab is of another CNI")
    found = one(
        judge_devices(node(), [VxlanDevice("vx", 1, 8472), VxlanDevice("flannel.1", 1, 8472)]), "FAIL", "vx has"
    )
    assert found.mend == "ip link del vx"
    assert judge_devices(node(), [VxlanDevice("vx", 2, 8472)]) == []

    address = Address(9, ip_interface("10.244.9.1/24"))
    bridged = node(status(), links=(Link(9, "cni0", 1450, True, "bridge"),), addresses=(address,))
    assert one(judge_bridge(bridged), "FAIL", "cni0 has 10.244.9.1/24", "10.244.1.0/24").mend == "ip link del cni0"
    right = replace(bridged, addresses=(Address(9, ip_interface("10.244.1.1/24")),))
    assert judge_bridge(right) == []


def test_routes_into_the_overlay() -> None:
    def route(prefix: str, index: int, gateway: str = "") -> Route:
        return Route(ip_network(prefix), index, ip_address(gateway) if gateway else None)

    well = [
        route("0.0.0.0/0", 2, "192.0.2.254"),
        route("10.0.0.0/8", 2, "192.0.2.254"),
        route("10.244.3.0/24", 7, "10.244.3.0"),
        route("10.244.1.7/32", 2),
    ]
    one(judge_routes(node(status()), well), "OK")
    inside = one(judge_routes(node(status()), [route("10.244.0.0/20", 2)]), "FAIL", "10.244.0.0/20 dev eth0 overlaps")
    assert "ip route del" not in inside.mend, "the underlay's own route is not to be deleted"
    via = one(judge_routes(node(status()), [route("10.244.8.0/24", 2, "192.0.2.9")]), "FAIL", "via 192.0.2.9")
    assert via.mend == "ip route del 10.244.8.0/24 via 192.0.2.9 dev eth0"
    direct = node(status(), peers=frozenset({ip_address("192.0.2.9")}))
    one(judge_routes(direct, [route("10.244.8.0/24", 2, "192.0.2.9")]), "OK")


# kernel, daemon, clock, tools


def test_kernel() -> None:
    assert judge_release("6.1.0-18-amd64") == []
    one(judge_release("4.15.0-20-generic"), "WARN", "older than 4.20")
    one(judge_vxlan(node(), ""), "OK")
    one(judge_vxlan(node(), "Operation not supported"), "WARN", "no vxlan of the kernel")
    one(judge_vxlan(node(kind="udp"), "Operation not supported"), "OK", "not needed")


def test_the_daemon_and_its_file() -> None:
    one(judge_daemon(node(status())), "OK", "ready, pid 100", "2 s ago")
    one(judge_daemon(node()), "WARN", "no daemon is running")
    hung = replace(node().asked, silence="the daemon did not answer on x: timed out")
    one(judge_daemon(node(asked=hung)), "FAIL", "did not answer")
    broken = node(conf_problem="net-conf.json: no JSON")
    assert said(judge_daemon(broken))[1] == ("FAIL", "network configuration: net-conf.json: no JSON")
    unready = status(ready=False, problems=["no contact with the lease store for 9 s", *(f"p{n}" for n in range(9))])
    found = judge_daemon(node(unready))
    assert found[0].level is Level.fail and "not ready: no contact with the lease store" in found[0].text
    assert found[-1].text == "and 5 more problems"
    one(judge_daemon(node(status(problems=["lease x is not used: y"]))), "WARN", "lease x")
    one(judge_daemon(node(status(), env=None)), "FAIL", "is missing")
    one(judge_daemon(node(status(netns=1))), "WARN", "another network namespace")


def test_clock() -> None:
    one(judge_clock(node(status()), now), "OK")
    one(judge_clock(node(), 86400.0), "FAIL", "1970-01-02", "not set")
    one(judge_clock(node(status()), now - 3600), "WARN", "started in the future")
    lease = status()["lease"]
    one(judge_clock(node(status(lease=lease | {"expires": now - 9})), now), "FAIL", "ended 9 s ago")
    one(judge_clock(node(status(lease=lease | {"expires": now + 30 * 3600})), now), "WARN", "lasts 30 h")
    one(judge_clock(node(status(lease=lease | {"expires": None})), now), "OK")


def test_tools() -> None:
    both = {"nft": "nftables v1.0.6 (Lester Gooch #5)\n", "iptables": "iptables v1.8.9 (nf_tables)\n"}
    assert "nft 1.0.6, iptables 1.8.9 (nf_tables)" in one(judge_tools(node(), both, "6.1"), "OK").text
    found = judge_tools(node(), both | {"iptables": ""}, "6.1")
    assert (found[0].level, found[0].mend) == (Level.warn, "apt-get install iptables")
    conf = validate(parse('{"Network": "10.244.0.0/16", "EnableNFTables": true}'))
    found = judge_tools(node(conf=conf), both | {"nft": ""}, "6.1")
    assert (found[0].level, found[0].mend) == (Level.fail, "apt-get install nftables")
