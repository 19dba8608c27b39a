"""The lab: a virtual cluster of nodes and pods in an enclosure, for the demo, the tests and the benchmarks.

    with Lab(net_conf("vxlan")) as lab:
        lab.start("dataplane", "dataplane", "kernel")
        lab.nodes[0].pods[0].ping(lab.nodes[1].pods[0])

What must stay true: leaving the block ends every process and removes every namespace and device of the lab, whatever
happened inside; what a lab writes is under /run, which is the enclosure's own; a lab that does not come up says why,
with the daemons' logs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from dataplane.lab.commands import LabError, wait_for
from dataplane.lab.kernel_node import KernelNode
from dataplane.lab.kube_nodes import KubeNodes
from dataplane.lab.leases import LeaseBook
from dataplane.lab.node import DaemonNode, Node
from dataplane.lab.topology import Pod, Underlay

Kind = Literal["dataplane", "kernel"]

network = "10.244.0.0/16"
ipv6_network = "fd00:244::/48"


def net_conf(backend: str, *, ipv6: bool = False, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a net-conf.json document.

    Args:
        backend: "udp" or "vxlan".
        ipv6: dual stack instead of IPv4 alone.
        options: more members of the Backend object.
    """
    document: dict[str, Any] = {"Network": network, "Backend": {"Type": backend, **(options or {})}}
    if ipv6:
        document |= {"EnableIPv6": True, "IPv6Network": ipv6_network}
    return document


class Lab:
    """A cluster; a context manager.

    Args:
        conf: the network configuration, see `net_conf`.
        mtu: of the underlay, bytes.
        options: more flags for every daemon.
        underlay: what joins the nodes; None: the usual bridge. Closed with the lab.
        etcd: endpoints of the etcd that has leases and configuration; "": the embedded store of the lab.
        kube: the API server whose Nodes are the leases, instead; node N is registered there with 10.244.N.0/24.
    """

    def __init__(
        self,
        conf: Mapping[str, Any],
        *,
        mtu: int = 1500,
        options: tuple[str, ...] = (),
        underlay: Underlay | None = None,
        etcd: str = "",
        kube: KubeNodes | None = None,
    ) -> None:
        self.nodes: list[Node] = []
        self.mtu = mtu
        self._options = (*options, f"--etcd-endpoints={etcd}") if etcd else options
        self.underlay = underlay or Underlay()
        self.directory = Path(tempfile.mkdtemp(prefix="dataplane-", dir="/run"))
        self.lease_dir = self.directory / "leases"
        self.net_conf_path = self.directory / "net-conf.json"
        self.configure(conf)
        self._kube = kube
        if kube is not None:
            kubeconfig = kube.kubeconfig(self.directory / "kubeconfig")
            self._options = (*options, "--kube-subnet-mgr", f"--kubeconfig-file={kubeconfig}")
        self.book = LeaseBook(self.lease_dir, self.net_conf_path, etcd, kube)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def configure(self, conf: Mapping[str, Any]) -> None:
        """Put another network configuration in place, for daemons that start from now on; the lab's own watch reads
        the file whenever it begins, so nobody may see half of it."""
        self.conf = conf
        new = self.net_conf_path.with_suffix(".new")
        new.write_text(json.dumps(conf))
        new.replace(self.net_conf_path)

    @property
    def pods(self) -> list[Pod]:
        """All pods, node by node."""
        return [pod for node in self.nodes for pod in node.pods]

    @property
    def daemons(self) -> list[DaemonNode]:
        """The nodes that run our daemon."""
        return [node for node in self.nodes if isinstance(node, DaemonNode)]

    def add(self, kind: Kind, *options: str) -> Node:
        """Add a node; a daemon of ours is not started yet. `options`: more flags for this one daemon."""
        number = len(self.nodes) + 1
        if self._kube is not None:
            self._register(self._kube, number)
        node: Node
        if kind == "kernel":
            ipv6 = bool(self.conf.get("EnableIPv6"))
            node = KernelNode(self.underlay, number, self.directory, self.book, ipv6=ipv6, mtu=self.mtu)
        else:
            node = DaemonNode(
                self.underlay,
                number,
                self.directory,
                self.lease_dir,
                self.net_conf_path,
                mtu=self.mtu,
                options=(*self._options, *options),
                environment={"NODE_NAME": f"node{number}"},
            )
        self.nodes.append(node)
        return node

    def _register(self, kube: KubeNodes, number: int) -> None:
        """As the kubelet and the controller manager do."""
        cidrs = [str(IPv4Network(network)[number << 8]) + "/24"]
        if self.conf.get("EnableIPv6"):
            cidrs.append(str(IPv6Network(ipv6_network)[number << 64]) + "/64")
        kube.add_node(f"node{number}", *cidrs)

    def start(self, *kinds: Kind, pods: int = 1) -> None:
        """Add nodes, start their daemons, add `pods` pods to each, and wait until everybody knows everybody."""
        added = [self.add(kind) for kind in kinds]
        daemons = [node for node in added if isinstance(node, DaemonNode)]
        for node in daemons:
            node.start_daemon()
        for node in daemons:
            node.wait_ready()
        for new in added:
            for _ in range(pods):
                new.add_pod()
        self.wait_converged()

    def wait_converged(self, timeout: float = 30.0) -> None:
        """Wait until every node knows every other; raises `LabError` naming the pairs that do not."""

        def ignorant() -> list[str]:
            return [
                f"{one.label} does not know {other.label}"
                for one in self.nodes
                for other in self.nodes
                if one is not other and not one.knows(other)
            ]

        try:
            wait_for(lambda: not ignorant(), timeout, "every node to know every other")
        except LabError as error:
            self.book.leases()  # says so if our own watch has ended
            raise LabError(f"{error}: {', '.join(ignorant())}") from None

    def logs(self, lines: int = 30) -> str:
        """Return the last lines of every daemon's log, and what it has dropped."""
        parts: list[str] = []
        for node in self.daemons:
            drops = {reason: count for reason, count in (node.status() or {}).get("drops", {}).items() if count}
            parts += [f"--- {node.label}: drops {drops}, the end of its log", *node.log().splitlines()[-lines:]]
        return "\n".join(parts)

    def shell(self) -> None:
        """Run an interactive shell in the enclosure, for looking around."""
        print("A shell inside the lab; `exit` ends it and removes everything. Places:")
        for node in self.nodes:
            print(f"  ip netns exec {node.name} …   ({node.kind}, {node.address}, pods {node.net and node.net.ipv4})")
            for pod in node.pods:
                print(f"  ip netns exec {pod.name} …   ({pod.address} {pod.address6})")
        for node in self.daemons:
            print(f"  dataplane status --run-dir {node.run_dir}   log: {node.log_path}")
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"  # where `dataplane` is
        subprocess.run([os.environ.get("SHELL", "/bin/sh")], env={**os.environ, "PATH": path}, check=False)

    def close(self) -> None:
        """Remove everything."""
        while self.nodes:
            self.nodes.pop().close()
        self.book.close()
        self.underlay.close()
