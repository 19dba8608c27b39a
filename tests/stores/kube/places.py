"""A store and an event loop for the tests of the Kubernetes store."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from dataplane.errors import StoreError
from dataplane.model import Lease, LeaseAttrs, WatchEvent
from dataplane.stores.kube.access import KubeAccess
from dataplane.stores.kube.client import Timing
from dataplane.stores.kube.store import KubeStore
from dataplane.stores.kube.watch import Spans
from tests.apiserver.process import Server

prefix = "flannel.alpha.coreos.com/"
quick = Timing(call=8.0, page=5.0, silence=6.0, settle=0.0)
short = Spans(watch=3, relist=3600.0)
mac = "12:c6:65:89:b4:e3"
vxlan = LeaseAttrs(IPv4Address("192.0.2.1"), None, "vxlan", {"VNI": 1, "VtepMAC": mac})
dual = LeaseAttrs(
    IPv4Address("192.0.2.1"),
    IPv6Address("2001:db8::1"),
    "vxlan",
    {"VNI": 1, "VtepMAC": mac},
    {"VNI": 1, "VtepMAC": "0e:11:22:33:44:55"},
)


def store_of(
    server: Server,
    name: str,
    directory: Path,
    *,
    kubeconfig: Path | None = None,
    annotation_prefix: str = prefix,
    spans: Spans | None = None,
    timing: Timing = quick,
    conf: dict[str, Any] | None = None,
    **access: Any,
) -> KubeStore:
    """Make a store for the Node of this name."""
    net_conf = directory / "net-conf.json"
    net_conf.write_text(json.dumps(conf or {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}))
    kubeconfig = kubeconfig or server.kubeconfig(directory / "kubeconfig")
    given = KubeAccess(kubeconfig=kubeconfig, prefix=annotation_prefix, node_name=name, **access)
    return KubeStore(given, net_conf, timing=timing, spans=spans)


def annotations(server: Server, name: str) -> dict[str, str]:
    """Return a Node's annotations under flannel's prefix, by the rest of their names."""
    texts = server.node(name)["metadata"]["annotations"]
    return {item.removeprefix(prefix): text for item, text in texts.items() if item.startswith(prefix)}


async def until(events: AsyncGenerator[WatchEvent, None], wanted: type[WatchEvent]) -> Any:
    """Return the next event of this kind."""
    async for event in events:
        if isinstance(event, wanted):
            return event
    raise AssertionError("the watch ended")


def peer(server: Server, name: str, number: int, public: int | None = None) -> Lease:
    """Have another node of flannel's there, or change it; return its lease."""
    attrs = LeaseAttrs(IPv4Address(f"198.51.100.{public or number}"), None, "vxlan", {"VNI": 1, "VtepMAC": mac})
    if public is None:
        server.add_node(name, f"10.244.{number}.0/24")
    return server.annotate_as_flannel(name, attrs)


def held(*leases: Lease) -> dict[str, Lease]:
    return {lease.key: lease for lease in leases}


def lists(server: Server) -> int:
    """How many lists were asked for since the server's start, whole or streamed."""
    urls = [request["url"] for request in server.requests()]
    return sum("sendInitialEvents" in url or ("limit=" in url and "continue=" not in url) for url in urls)


def watches(server: Server) -> list[str]:
    return [request["url"] for request in server.requests() if "watch=true" in request["url"]]


async def fails_by(store: KubeStore) -> str:
    """Watch until that fails, and return why."""
    with pytest.raises(StoreError) as failure:
        async for _ in store.watch():
            pass
    return str(failure.value)


async def started(server: Server, directory: Path, spans: Spans | None = None) -> tuple[KubeStore, Lease]:
    """Make a store with a lease on the Node `us`."""
    store = store_of(server, "us", directory, spans=spans)
    return store, await store.acquire(vxlan, None)
