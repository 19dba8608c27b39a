"""Clusters whose leases are in etcd: every mode, flannel's bytes, and an etcd that fails under a thousand leases."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from dataplane.lab.topology import Place
from tests.netns.cluster.etcd_cluster import EtcdCluster, lease
from tests.traffic import LongPing

others = 1000
frozen_s = 10.0
modes: dict[str, tuple[str, dict[str, object], tuple[str, ...], bool]] = {
    "udp": ("udp", {}, (), False),
    "vxlan": ("vxlan", {}, (), True),
    "vxlan-kernel": ("vxlan", {}, ("--datapath=kernel",), True),
    "vxlan-direct": ("vxlan", {"DirectRouting": True}, (), True),
    "host-gw": ("host-gw", {}, (), True),
}


@pytest.mark.parametrize("mode", modes)
def test_pods_reach_each_other_and_etcd_has_flannels_bytes(tmp_path: Path, mode: str) -> None:
    backend, options, flags, ipv6 = modes[mode]
    with EtcdCluster(tmp_path, backend, ipv6=ipv6, options=options, flags=flags) as cluster:
        lab = cluster.lab
        lab.start("dataplane", "dataplane", *(("kernel",) if backend == "vxlan" and not options else ()))
        for one in lab.pods:
            for other in lab.pods:
                for version in (4, 6) if ipv6 else (4,):
                    assert one is other or one.ping(other, version).ok
        assert lab.pods[0].iperf3(lab.pods[1], amount=20 << 20).gbps > 0.05
        for node in lab.daemons:
            status = node.status()
            assert status is not None
            shown = cluster.server.ctl("get", "--prefix", f"/coreos.com/network/subnets/{_key(status)}")
            key, value = shown.splitlines()
            assert key == f"/coreos.com/network/subnets/{_key(status)}"
            assert re.fullmatch(_value(node, backend, ipv6, status), value), value


@pytest.mark.parametrize("flags", [(), ("--datapath=kernel",)])
def test_direct_routing_across_a_router_takes_the_tunnel(tmp_path: Path, flags: tuple[str, ...]) -> None:
    with EtcdCluster(tmp_path, "vxlan", options={"DirectRouting": True}, flags=flags) as cluster:
        lab = cluster.lab
        near, far = lab.add("dataplane"), lab.add("dataplane")
        router = Place(f"{lab.underlay.prefix}-router", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0")
        try:
            lab.underlay.attach(router, 99)
            near.run("ip", "route", "add", "192.0.2.2/32", "via", "192.0.2.99")
            far.run("ip", "route", "add", "192.0.2.1/32", "via", "192.0.2.99")
            for node in lab.daemons:
                node.start_daemon()
            for node in lab.daemons:
                node.wait_ready()
                node.add_pod()
            lab.wait_converged()
            assert lab.pods[0].ping(lab.pods[1], count=10).ok
            assert lab.pods[0].iperf3(lab.pods[1], amount=20 << 20).gbps > 0.01
            assert {peer["direct"] for node in lab.daemons for peer in (node.status() or {})["peers"]} == {False}
        finally:
            router.close()


def test_a_mixed_cluster_under_churn_loses_nothing(tmp_path: Path) -> None:
    """Ours in userspace, ours in the kernel, and the kernel's vxlan without us; leases change as fast as etcd takes them."""
    with EtcdCluster(tmp_path, "vxlan", subnet_len=26) as cluster:
        lab = cluster.lab
        lab.add("dataplane"), lab.add("dataplane", "--datapath=kernel"), lab.add("kernel")
        for node in lab.daemons:
            node.start_daemon()
        for node in lab.daemons:
            node.wait_ready()
        for node in lab.nodes:
            node.add_pod()
        lab.wait_converged()
        talks = [
            LongPing(one.name, other.address) for one in lab.pods for other in lab.pods if one.address < other.address
        ]
        _, free = numbers(cluster)
        for round_ in range(40):
            put = free[round_ * 10 : round_ * 10 + 100]
            cluster.write(
                dict(lease(number, round_) for number in put), tuple(lease(n)[0] for n in free[: round_ * 10])
            )
        print(f"equal to the store after {settle(cluster):.2f} s")
        for talk in talks:
            seen = talk.stop()
            assert seen.sent > 50
            assert seen.received == seen.sent, seen.text
        for one in lab.pods:
            for other in lab.pods:
                assert one is other or one.ping(other).ok


def _key(status: dict[str, dict[str, str]]) -> str:
    four, six = status["lease"]["subnet"], status["lease"]["ipv6_subnet"]
    return four.replace("/", "-") + (f"&{six.replace('/', '-')}" if six else "")


def _value(node: DaemonNode, backend: str, ipv6: bool, status: dict[str, dict[str, str]]) -> str:
    """The pattern of flannel.md section 2.2; the status does not tell the second device's MAC."""
    six = f'"{node.address6}"' if ipv6 else "null"
    text = f'{{"PublicIP":"{node.address}","PublicIPv6":{six}'
    if backend != "udp":
        text += f',"BackendType":"{backend}"'
    if backend == "vxlan":
        text += f',"BackendData":{{"VNI":1,"VtepMAC":"{status["lease"]["vtep_mac"]}"}}'
        text += ',"BackendV6Data":{"VNI":1,"VtepMAC":"MAC"}' if ipv6 else ""
    return re.escape(text + "}").replace('"MAC"', '"[0-9a-f]{2}(:[0-9a-f]{2}){5}"')


# Failures; two clusters at a time would have the same address on two bridges, so those with one of their own come first


@pytest.mark.parametrize("how", ["deleted", "taken"])
def test_an_own_lease_that_is_lost_ends_the_daemon(tmp_path: Path, how: str) -> None:
    with EtcdCluster(tmp_path, "vxlan") as cluster:
        cluster.lab.start("dataplane", "dataplane")
        node = cluster.lab.daemons[0]
        key = str((node.status() or {})["lease"]["subnet"]).replace("/", "-")
        if how == "deleted":
            cluster.place.delete(key)
        else:
            cluster.place.put(key, lease(1)[1])
        assert node.process is not None
        assert node.process.wait(30) == 1
        assert f"lease {key} is " in node.log().splitlines()[-1]
        assert "flannel.1" not in node.run("ip", "link").stdout


def test_a_second_spelling_takes_nothing_over(tmp_path: Path) -> None:
    """Also for a daemon that starts when both are there; a flood of them fills no log."""
    with EtcdCluster(tmp_path, "vxlan", subnet_len=26) as cluster:
        cluster.lab.start("dataplane", "dataplane")
        number = numbers(cluster)[1][0]
        key, value = lease(number)
        cluster.write({key: value})
        bare = key.removesuffix("-26")
        names = [f"{bare}-026", *(f"{folder}/{bare}-26" for folder in range(300))]
        cluster.write(dict(zip(names, (lease(500 + n)[1] for n in range(301)), strict=True)))
        cluster.lab.daemons[1].kill_daemon()
        cluster.lab.daemons[1].start_daemon()
        for node in cluster.lab.daemons:

            def all_judged(node: DaemonNode = node) -> bool:
                status = node.status() or {"refused_leases": [], "peers": []}
                known = {peer["subnet"] for peer in status["peers"]}  # of the core's table: after the refusals
                return len(status["refused_leases"]) == len(names) and _subnet(number) in known

            wait_for(all_judged, 90, f"{node.label} to refuse all others")
            status = node.status() or {}
            assert {peer["public_ip"] for peer in status["peers"] if peer["subnet"] == _subnet(number)} == {
                json.loads(value)["PublicIP"]
            }
            refused = {entry["lease"]: entry["reason"] for entry in status["refused_leases"]}
            reason = f"its subnet {_subnet(number)} overlaps lease {key}, which was there first"
            assert refused == {f"/coreos.com/network/subnets/{name}": reason for name in names}
            assert node.log().count("is not used") < 250


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """Two daemons of ours and a thousand leases of others."""
    with EtcdCluster(tmp_path_factory.mktemp("etcd"), "vxlan", subnet_len=26) as cluster:
        cluster.lab.start("dataplane", "dataplane")
        taken = {subnet.replace("/", "-") for subnet in cluster.stored()}
        free = [number for number in range(1, 1020) if lease(number)[0] not in taken]
        cluster.write(dict(lease(number) for number in free[:others]))
        settle(cluster)
        yield cluster


def settle(cluster: EtcdCluster, limit_s: float = 30.0) -> float:
    """Wait until every daemon has exactly what the store has; return how long that took."""
    begun = time.monotonic()
    for node in cluster.lab.daemons:
        wait_for(lambda node=node: cluster.is_equal(node), limit_s, f"{node.label} to equal the store")  # type: ignore[misc]
    return time.monotonic() - begun


def ready(node: DaemonNode) -> bool:
    return bool((node.status() or {}).get("ready"))


def shuffle(cluster: EtcdCluster, round_: int) -> None:
    """Delete 50 leases, change 50, and add 10 that were free, past the relay."""
    there, free = numbers(cluster)
    cluster.write(
        {**dict(lease(number, round_) for number in there[50:100]), **dict(lease(number) for number in free[:10])},
        tuple(lease(number)[0] for number in there[:50]),
    )


def numbers(cluster: EtcdCluster) -> tuple[list[int], list[int]]:
    """Which leases of others are in the store, and which are free."""
    stored = cluster.stored()
    there = [number for number in range(1, 1020) if stored.get(_subnet(number), "").startswith("198.18.")]
    return there, [number for number in range(1, 1020) if _subnet(number) not in stored]


def _subnet(number: int) -> str:
    return lease(number)[0].replace("-", "/")


def under_traffic(cluster: EtcdCluster, fail: Callable[[], None], recover: Callable[[], None]) -> float:
    """Let etcd fail and come back while pods talk; nothing of that may be lost. Returns seconds to equality."""
    one, other = cluster.lab.pods
    node = cluster.lab.daemons[0]
    going_on = LongPing(one.name, other.address)
    fail()
    wait_for(lambda: not ready(node), 90, "the node to say that it is not ready")
    problems = (node.status() or {})["problems"]
    assert any("lease store" in text for text in problems), problems
    recover()
    took = settle(cluster)
    for each in cluster.lab.daemons:
        wait_for(lambda each=each: ready(each), 90, "readiness")  # type: ignore[misc]
    seen = going_on.stop()
    assert seen.sent > 100
    assert seen.received >= seen.sent - 1, seen.text[-200:]  # the last request may have been under way
    print(f"equal to the store {took:.2f} s after its return; {seen.sent} pings, {seen.sent - seen.received} lost")
    return took


def test_killed(big: EtcdCluster) -> None:
    def recover() -> None:
        big.server.start()
        shuffle(big, 1)

    under_traffic(big, big.server.kill, recover)


def test_compacted_during_a_disconnect(big: EtcdCluster) -> None:
    def recover() -> None:
        shuffle(big, 2)
        found = re.search(r'"revision":(\d+)', big.server.ctl("get", "/", "-w", "json"))
        assert found is not None
        big.server.ctl("compact", found[1])
        big.let_through()

    under_traffic(big, big.cut_off, recover)


def test_restored_from_a_snapshot(big: EtcdCluster, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    big.server.ctl("snapshot", "save", str(backup))
    shuffle(big, 3)
    settle(big)

    def recover() -> None:
        big.server.restore(backup)
        big.server.start()

    under_traffic(big, big.server.kill, recover)


def test_every_byte_delayed(big: EtcdCluster) -> None:
    big.tell(lambda relay: setattr(relay, "delay_s", 0.2))
    try:
        shuffle(big, 4)
        settle(big)
        assert all(ready(node) for node in big.lab.daemons)
    finally:
        big.tell(lambda relay: setattr(relay, "delay_s", 0.0))


def test_churn(big: EtcdCluster) -> None:
    """A hundred changes in each of 20 transactions, as fast as etcd takes them."""
    one, other = big.lab.pods
    going_on = LongPing(one.name, other.address)
    there, _ = numbers(big)
    for round_ in range(20):
        some = there[round_ * 40 : round_ * 40 + 40]
        big.write(dict(lease(number, 10 + round_) for number in some[:30]), tuple(lease(n)[0] for n in some[30:]))
    settle(big)
    seen = going_on.stop()
    assert seen.received >= seen.sent - 1, seen.text[-200:]


def test_a_lease_that_runs_out_is_gone_within_seconds(big: EtcdCluster) -> None:
    free = numbers(big)[1][0]
    big.write(dict([lease(free)]), ttl=2)
    node = big.lab.daemons[0]

    def known() -> bool:
        return _subnet(free) in {peer["subnet"] for peer in (node.status() or {})["peers"]}

    wait_for(known, 90, "the peer")
    wait_for(lambda: not known(), 90, "the peer to go")


def test_frozen(big: EtcdCluster) -> None:
    """A minute, by hand, gives the same: what notices it and what comes after do not depend on how long it lasts."""

    def recover() -> None:
        frozen = time.monotonic()
        wait_for(lambda: time.monotonic() - frozen > frozen_s, 2 * frozen_s, "time to pass")
        big.server.thaw()
        shuffle(big, 5)

    under_traffic(big, big.server.freeze, recover)
