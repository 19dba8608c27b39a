"""The lab's own hand on the shared lease store: takes leases for kernel nodes and tells them of everybody's.

One thread with an event loop; what it calls is synchronous. What must stay true: listeners always get the complete
set of leases, in order of the changes; a store that fails is raised by the next call, not lost.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, TypeVar

from dataplane.lab.commands import LabError
from dataplane.lab.kube_nodes import KubeNodes
from dataplane.model import Lease, LeaseAttrs, LeaseGone, LeasePut, LeaseRefused, Snapshot, WatchEvent
from dataplane.stores.base import Store
from dataplane.stores.embedded.store import EmbeddedStore

Value = TypeVar("Value")
Listener = Callable[[Mapping[str, Lease]], None]


class LeaseBook:
    """All leases of one store, followed.

    Args:
        directory, net_conf_path: as given to the daemons.
        etcd: the endpoints given to them instead; "" for none.
        kube: the API server given to them instead.
    """

    def __init__(self, directory: Path, net_conf_path: Path, etcd: str = "", kube: KubeNodes | None = None) -> None:
        self._directory = directory
        self._net_conf_path = net_conf_path
        self._etcd = etcd
        self._kube = kube
        self._leases: dict[str, Lease] = {}
        self._listeners: list[Listener] = []
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lease-book", daemon=True)
        self._thread.start()
        self._store = self._call(self._open())
        self._watching = asyncio.run_coroutine_threadsafe(self._watch(), self._loop)

    def acquire(
        self,
        attrs: LeaseAttrs,
        subnet: IPv4Network | None = None,
        ipv6_subnet: IPv6Network | None = None,
        ttl: float = 86400.0,
        node: str = "",
    ) -> Lease:
        """Take a lease for the node that `attrs` describes, on these subnets if they are free.

        Args:
            ttl: seconds that it lives; in etcd a day, whatever is asked.
            node: its name, by which Kubernetes knows it; there its subnets stand already.
        """
        if self._kube is not None:
            return self._kube.annotate_as_flannel(node, attrs)

        async def take() -> Lease:
            store = await self._open(ttl)
            try:
                wish = None if subnet is None and ipv6_subnet is None else Lease(subnet, ipv6_subnet, LeaseAttrs())
                return await store.acquire(attrs, wish)
            finally:
                await store.close()

        return self._call(take())

    def leases(self) -> dict[str, Lease]:
        """Return all leases by key, as far as we have been told."""
        if self._failure is not None:
            raise LabError(f"the lab's watch of the lease store ended: {self._failure}") from self._failure
        return dict(self._leases)

    def listen(self, listener: Listener) -> None:
        """Call `listener` with all leases now and after every change, until `unlisten`."""

        async def add() -> None:
            self._listeners.append(listener)
            listener(self._leases)

        self._call(add())

    def unlisten(self, listener: Listener) -> None:
        """Stop calling `listener`."""

        async def remove() -> None:
            self._listeners.remove(listener)

        self._call(remove())

    def close(self) -> None:
        """Let go of the store."""

        async def end() -> None:
            self._watching.cancel()
            await self._store.close()

        self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self, ttl: float = 86400.0) -> Store:
        """Open the store; within the loop that it is used in, as gRPC wants it. Only the one in use is loaded."""
        if self._kube is not None:
            from dataplane.stores.kube.access import KubeAccess
            from dataplane.stores.kube.store import KubeStore

            kubeconfig = self._kube.kubeconfig(self._net_conf_path.with_name("book.kubeconfig"))
            return KubeStore(KubeAccess(kubeconfig=kubeconfig), self._net_conf_path)
        if not self._etcd:
            return EmbeddedStore(self._directory, self._net_conf_path, ttl=ttl)
        from dataplane.stores.etcd.access import read_access
        from dataplane.stores.etcd.store import EtcdStore

        return EtcdStore(read_access(self._etcd))

    def _call(self, work: Coroutine[Any, Any, Value]) -> Value:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _watch(self) -> None:
        try:
            async for event in self._store.watch():
                self._fold(event)
                for listener in self._listeners:
                    listener(self._leases)
        except Exception as error:
            self._failure = error
            raise

    def _fold(self, event: WatchEvent) -> None:
        match event:
            case Snapshot(leases=leases):
                self._leases = {lease.key: lease for lease in leases}
            case LeasePut(lease=lease):
                self._leases[lease.key] = lease
            case LeaseRefused(refused=refused):
                self._leases.pop(refused.key, None)
            case LeaseGone(key=key):
                self._leases.pop(key, None)
