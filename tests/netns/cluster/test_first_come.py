"""Who was there first keeps it, whoever comes later and whatever is restarted (docs/decisions/0018).

In one lab for each datapath two daemons hold leases, and others are written into the store that claim each thing that
they hold. What must stay true: traffic between the two goes on, tables and kernel are those from before, each newcomer
is refused and named with the lease that it collides with, and takes the older one's place when that goes, not before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from dataplane.model import Lease
from tests.netns.cluster.claimants import (
    Claim,
    EtcdLedger,
    KubeLedger,
    Ledger,
    LocalLedger,
    claims_on,
    claims_on_the_key,
    peers_of,
    used,
)
from tests.netns.cluster.etcd_cluster import EtcdCluster
from tests.netns.kube.kube_cluster import KubeCluster
from tests.traffic import LongPing

pytestmark = pytest.mark.long

limit_s = 120.0


@dataclass(frozen=True, slots=True)
class Mode:
    """A store, flannel's backend, flags, and whether the overlay is dual stack."""

    store: str
    backend: str
    flags: tuple[str, ...] = ()
    ipv6: bool = True

    @property
    def in_kernel(self) -> bool:
        """Whether the kernel carries the packets, which goes on while a daemon restarts."""
        return self.backend == "host-gw" or bool(self.flags)


kernel = ("--datapath=kernel",)
modes = {
    "local udp": Mode("local", "udp"),
    "local vxlan-kernel": Mode("local", "vxlan", kernel),
    "local host-gw": Mode("local", "host-gw"),
    "etcd vxlan-userspace": Mode("etcd", "vxlan"),
    "etcd vxlan-kernel IPv4": Mode("etcd", "vxlan", kernel, ipv6=False),
    "kube vxlan-kernel": Mode("kube", "vxlan", kernel),
}


@contextmanager
def lab_of(mode: Mode, directory: Path) -> Iterator[tuple[Lab, Ledger]]:
    """Yield a lab of two daemons, whose subnets are in the middle of the overlay, and the hand that writes into its store."""
    with ExitStack() as stack:
        ledger: Ledger
        if mode.store == "etcd":
            etcd = stack.enter_context(EtcdCluster(directory, mode.backend, ipv6=mode.ipv6, flags=mode.flags))
            lab, ledger = etcd.lab, EtcdLedger(etcd)
        elif mode.store == "kube":
            kube = stack.enter_context(KubeCluster(directory, mode.backend, ipv6=mode.ipv6, flags=mode.flags))
            lab, ledger = kube.lab, KubeLedger(kube.server)
        else:
            lab = stack.enter_context(Lab(net_conf(mode.backend, ipv6=mode.ipv6), options=mode.flags))
            stack.callback(lambda: print(lab.logs(lines=60)))
            ledger = LocalLedger(lab)
        for number in (1, 4):  # a supernet of the one is none of the other's
            node = lab.add("dataplane")
            text = f"FLANNEL_SUBNET=10.244.{16 * number}.1/24\n"
            if mode.ipv6:
                text += f"FLANNEL_IPV6_SUBNET=fd00:244:0:{16 * number:x}::1/64\n"
            node.directory.joinpath("subnet.env").write_text(text)
        for node in lab.daemons:
            node.start_daemon()
        for node in lab.daemons:
            node.wait_ready(limit_s)
            node.add_pod()
        lab.wait_converged(limit_s)
        yield lab, ledger


def lease_of(lab: Lab, node: DaemonNode) -> Lease:
    """The node's lease as the store has it."""
    (subnet,) = {(node.status() or {})["lease"]["subnet"]}
    return next(lease for lease in lab.book.leases().values() if str(lease.subnet) == subnet)


def peers(node: DaemonNode) -> dict[str, str]:
    return {peer["subnet"]: peer["public_ip"] for peer in (node.status() or {}).get("peers", ())}


def refused(node: DaemonNode) -> dict[str, str]:
    return {entry["lease"]: entry["reason"] for entry in (node.status() or {}).get("refused_leases", ())}


def in_kernel(node: DaemonNode) -> dict[str, str]:
    """Return to which underlay address the kernel sends each peer's packets: by route, neighbour and FDB entry, which may
    just be changing. An FDB entry that no route leads to stands under its MAC."""
    fdb = {
        (entry["ifname"], entry["mac"]): entry["dst"]
        for entry in json.loads(node.run("bridge", "-j", "fdb", "show").stdout)
        if "dst" in entry
    }
    neighbours = {
        (entry["dev"], entry["dst"]): entry["lladdr"]
        for entry in json.loads(node.run("ip", "-j", "neigh", "show", "nud", "permanent").stdout)
    }
    found: dict[str, str] = {}
    for version in ("-4", "-6"):
        for route in json.loads(node.run("ip", "-j", version, "route", "show").stdout):
            device, hop = route["dev"], route.get("gateway")
            if hop is not None and device.startswith("flannel"):
                hop = fdb.pop((device, neighbours.get((device, hop), "")), "nowhere")
            if hop is not None:
                found[route["dst"]] = hop
    return found | {mac: hop for (_, mac), hop in fdb.items()}


class Cluster:
    """Two daemons, what they hold, and what has been written beside that."""

    def __init__(self, mode: Mode, lab: Lab, ledger: Ledger) -> None:
        self.mode = mode
        self.lab = lab
        self.ledger = ledger
        self.nodes = lab.daemons
        self.leases = [lease_of(lab, node) for node in self.nodes]
        self.before = [self.vtep(node) for node in self.nodes]
        self.written: list[Claim] = []

    @staticmethod
    def vtep(node: DaemonNode) -> Any:
        lease = (node.status() or {})["lease"]
        return lease["subnet"], lease["ipv6_subnet"], lease["public_ip"], lease["vtep_mac"]

    def check(self, expected: list[list[Lease]]) -> None:
        """Wait until each node uses these leases and refuses every other one, by name and reason."""
        for node, own, leases in zip(self.nodes, self.leases, expected, strict=True):
            names = {claim.refused_as for claim in self.written if claim.lease not in leases}
            wait_for(
                lambda node=node, names=names, leases=leases: (
                    refused(node).keys() == names and peers(node) == peers_of(leases)
                ),
                limit_s,
                f"{node.label} to use {sorted(peers_of(leases))} and to refuse {sorted(names)}",
            )
            reasons = refused(node)
            for claim in self.written:
                if claim.lease in leases:
                    continue
                reason = reasons[claim.refused_as]
                assert "our own" in reason or any(lease.key in reason for lease in (own, *leases)), reason
            if self.mode.in_kernel:
                wait_for(
                    lambda node=node, leases=leases: in_kernel(node) == peers_of(leases),
                    limit_s,
                    f"the kernel of {node.label} to send as its status says",
                )

    def check_nothing_changed(self) -> None:
        self.check([[self.leases[1]], [self.leases[0]]])
        assert [self.vtep(node) for node in self.nodes] == self.before

    @contextmanager
    def traffic(self, *, goes_on: bool = True) -> Iterator[None]:
        """Traffic between the two is not lost meanwhile; where it cannot go on it is there afterwards."""
        versions = (4, 6) if self.mode.ipv6 else (4,)
        one, two = self.lab.pods
        pings = [LongPing(one.name, two.address_of(version)) for version in versions] if goes_on else []
        try:
            for ping in pings:
                wait_for(lambda ping=ping: ping.answers, limit_s, "the first answer")
            yield
        finally:
            seen = [ping.stop() for ping in pings]
        for ping in seen:
            assert ping.received >= ping.sent - 1, ping.text  # one may be under way
        for version in versions:
            assert one.ping(two, version).ok


def restart(end: Callable[[DaemonNode], object], *nodes: DaemonNode) -> None:
    for node in nodes:
        end(node)
    for node in nodes:
        node.start_daemon()
    for node in nodes:
        node.wait_ready(limit_s)


@pytest.mark.timeout(600)  # on a machine that does ten other things
@pytest.mark.parametrize("name", modes)
def test_who_was_there_first_keeps_it(tmp_path: Path, name: str) -> None:
    mode = modes[name]
    with lab_of(mode, tmp_path) as (lab, ledger):
        cluster = Cluster(mode, lab, ledger)
        one, two = cluster.leases
        near, far = cluster.nodes
        numbers = count(1)
        on_the_key = [
            claim for lease in (one, two) for claim in claims_on_the_key(lease, mode.backend, ledger, next(numbers))
        ]
        ledger.later()
        with cluster.traffic():
            cluster.written = on_the_key + [
                claim for lease in (one, two) for claim in claims_on(lease, mode.backend, ledger, numbers)
            ]
            for claim in cluster.written:
                ledger.put(claim.lease, claim.node, claim.spelled)
            cluster.check_nothing_changed()
        for end in (DaemonNode.stop_daemon, DaemonNode.kill_daemon):
            with cluster.traffic(goes_on=mode.in_kernel):
                restart(end, near, far)
                cluster.check_nothing_changed()
        with cluster.traffic():
            for claim in (*on_the_key, *cluster.written[len(on_the_key) :: 3]):
                ledger.delete(claim.lease, claim.node, claim.spelled)
                cluster.written.remove(claim)
            cluster.check_nothing_changed()

        # The older one goes: the oldest of those that it stood in the way of take its place, and keep it.
        far.stop_daemon()
        cluster.nodes, cluster.leases = [near], [one]
        name_of_two = ledger.name_of(2, two)
        ledger.delete(two, name_of_two)
        heirs = used(one, [claim.lease for claim in cluster.written])
        assert len(heirs) > 2
        cluster.check([heirs])
        ledger.later()
        ledger.put(two, name_of_two)
        cluster.written.append(Claim(two, name_of_two, two.key))
        cluster.check([heirs])
        restart(DaemonNode.kill_daemon, near)
        cluster.check([heirs])
        for claim in cluster.written[:-1]:
            ledger.delete(claim.lease, claim.node, claim.spelled)
        cluster.written.clear()
        cluster.check([[two]])
        far.start_daemon()
        far.wait_ready(limit_s)
        cluster.nodes, cluster.leases = [near, far], [one, two]
        with cluster.traffic():
            cluster.check_nothing_changed()
