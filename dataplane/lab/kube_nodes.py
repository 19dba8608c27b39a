"""What a lab asks of a Kubernetes API server whose Nodes are its leases."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from dataplane.model import Lease, LeaseAttrs


class KubeNodes(Protocol):
    """An administrator's hand on the API server that the lab is given; starting and ending it is the giver's."""

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig with flannel's rights, and return its path."""

    def add_node(self, name: str, *cidrs: str) -> object:
        """Register a Node with these pod subnets, as a kubelet and the controller manager would."""

    def annotate_as_flannel(self, name: str, attrs: LeaseAttrs) -> Lease:
        """Write on a Node what flanneld with the vxlan backend writes there; return it as a lease."""
