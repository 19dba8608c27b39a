"""The contestants: two nodes and two pods each, joined by one data plane, all standing side by side while a run lasts.

What must stay true: they differ in nothing but the data plane; each is proved to carry packets before it is measured;
a contestant that is not measured is idle.
"""

from __future__ import annotations

import os
import subprocess
from ipaddress import IPv4Network
from pathlib import Path

from dataplane.lab.bench.tools import Tools
from dataplane.lab.bench.underlays import Cable, Wire
from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import LabError, inside_of, wait_for
from dataplane.lab.node import DaemonNode, Node
from dataplane.lab.topology import Pod, PodNet, Underlay, underlay_address

_plain_port = 8285  # flannel's udp
_plain_overhead = 28  # outer IPv4 20, UDP 8
_plain_device = "flannel0"
_options = {"dataplane-kernel": ("--datapath=kernel",)}


class BareNode(Node):
    """A node whose pods are reached by a plain route over the underlay; number 1 and 2 know each other."""

    kind = "bare"

    def __init__(self, underlay: Underlay, number: int, directory: Path) -> None:
        super().__init__(underlay, number, directory)
        self._route(f"via {underlay_address(3 - number)}")

    def _route(self, way: str) -> None:
        self.batch(f"route add {_subnet(3 - self.number)} {way}")

    def pod_net(self) -> PodNet:
        return PodNet(1500, _subnet(self.number), None)

    def knows(self, other: Node) -> bool:
        return True


class PlainNode(BareNode):
    """A node whose pods are reached through the one-packet-per-syscall forwarder."""

    kind = "plain"

    def __init__(self, underlay: Underlay, number: int, directory: Path, program: str) -> None:
        self._program = program
        self.process: subprocess.Popen[str] | None = None
        super().__init__(underlay, number, directory)

    def _route(self, way: str) -> None:
        local, peer = str(underlay_address(self.number)), str(underlay_address(3 - self.number))
        words = [self._program, _plain_device, local, peer, str(_plain_port)]
        self.process = subprocess.Popen(inside_of(self.name, words), stdout=subprocess.PIPE, text=True)
        if self.process.stdout is None or not self.process.stdout.readline():
            raise LabError(f"{' '.join(words)} did not start: exit code {self.process.wait()}")
        self.batch(
            f"address add {_subnet(self.number)[0]}/32 dev {_plain_device}",
            f"link set {_plain_device} mtu {1500 - _plain_overhead} up",
            f"route add {_subnet(3 - self.number)} dev {_plain_device}",
        )

    def pod_net(self) -> PodNet:
        return PodNet(1500 - _plain_overhead, _subnet(self.number), None)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        super().close()


class Contestant:
    """One data plane between two pods; a context manager is the lab inside.

    Args:
        name: a key of `metrics.contestants`, or any for an installation of its own.
        underlay: what joins the nodes, not used by anybody else.
        tools: needed for "plain" only.
        python: of the installation whose daemon is measured; "": this one's.

    Attributes:
        environment: more variables for its daemons, whenever they are started.

    Raises:
        LabError: it did not come up, or its pods do not reach each other, with the daemons' logs.
    """

    def __init__(self, name: str, underlay: Cable | Wire, tools: Tools | None, python: str = "") -> None:
        self.name = name
        # The directory that we are in may be a source tree: `-m` would take that.
        self.environment = {"PYTHONSAFEPATH": "1"} if python else None
        # The kernel's node has no such rules. Ours keeps the one against forged encapsulation, which is part of it.
        self.lab = Lab(
            net_conf("udp" if name == "dataplane-udp" else "vxlan"),
            options=("--iptables-forward-rules=false",),
            underlay=underlay,
        )
        try:
            self._build(underlay, tools, python)
            self._prove()
        except BaseException:
            self.lab.close()
            raise

    def _build(self, underlay: Cable | Wire, tools: Tools | None, python: str) -> None:
        lab = self.lab
        if self.name == "bare":
            lab.nodes += [BareNode(underlay, number, lab.directory) for number in (1, 2)]
        elif self.name == "plain" and tools is not None:
            lab.nodes += [PlainNode(underlay, number, lab.directory, tools.plain_forwarder) for number in (1, 2)]
        else:
            for _ in (1, 2):
                lab.add("kernel" if self.name == "kernel" else "dataplane", *_options.get(self.name, ()))
        underlay.finish(lab.nodes)
        for daemon in lab.daemons:
            daemon.python = python or daemon.python
            daemon.start_daemon(environment=self.environment)
        for daemon in lab.daemons:
            daemon.wait_ready()
        for node in lab.nodes:
            node.add_pod()
        lab.wait_converged()

    def _prove(self) -> None:
        one, other = self.pods
        try:
            wait_for(lambda: one.ping(other, count=1).ok, 5.0, f"the first ping over {self.name}")
        except LabError as error:
            raise LabError(f"{error}\n{self.lab.logs()}") from None

    @property
    def pods(self) -> tuple[Pod, Pod]:
        """The pod of node 1 and the pod of node 2."""
        one, other = self.lab.pods
        return one, other

    def place(self, cpus: tuple[set[int], set[int]]) -> None:
        """Let node 1's processes run on the first set of processors only, node 2's on the second."""
        for node, allowed in zip(self.lab.nodes, cpus, strict=True):
            process = node.process if isinstance(node, DaemonNode | PlainNode) else None
            if process is None:
                continue
            if process.poll() is not None:
                raise LabError(f"{self.name}: the forwarder of {node.label} has ended:\n{node.log()}")
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), allowed)

    def drops(self) -> dict[str, int]:
        """Return what our daemons dropped so far, by reason."""
        total: dict[str, int] = {}
        for node in self.lab.daemons:
            for reason, count in node.drops().items():
                total[reason] = total.get(reason, 0) + count
        return total

    def close(self) -> None:
        """Remove everything of it."""
        self.lab.close()


def _subnet(number: int) -> IPv4Network:
    """The share of node `number`, where no lease store deals them out."""
    return IPv4Network(f"10.244.{number}.0/24")
