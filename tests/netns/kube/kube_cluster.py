"""A lab whose leases are Nodes of a Kubernetes API server on the underlay, with the rights that our manifest gives."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import batch
from dataplane.lab.topology import Underlay
from tests import root
from tests.apiserver.access import read_rules
from tests.apiserver.process import Server
from tests.netns.store_cluster import StoreCluster

manifest = root / "deploy/kubernetes/dataplane.yml"
address = "192.0.2.250"  # of the API server, on the underlay's bridge


class KubeCluster(StoreCluster):
    """API server and lab; a context manager."""

    def __init__(
        self,
        directory: Path,
        backend: str,
        *,
        ipv6: bool = False,
        options: Mapping[str, Any] | None = None,
        flags: tuple[str, ...] = (),
    ) -> None:
        with ExitStack() as undo:
            underlay = Underlay()
            undo.callback(underlay.close)
            batch(None, f"address add {address}/24 dev {underlay.prefix}")
            rules = read_rules(yaml.safe_load_all(manifest.read_text()))
            self.server = undo.enter_context(Server(directory, address, rules=rules))
            conf = net_conf(backend, ipv6=ipv6, options=options)
            self.lab = Lab(conf, options=flags, underlay=underlay, kube=self.server)
            undo.callback(self.lab.close)
            self.undo = undo.pop_all()
