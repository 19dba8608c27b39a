"""Our own Node in the tests of the Kubernetes store."""

from __future__ import annotations

import asyncio

from dataplane.lab.commands import wait_for
from dataplane.model import Lease, LeaseAttrs
from dataplane.stores.kube.store import KubeStore
from tests.apiserver.process import Server
from tests.stores.kube.places import mac, vxlan
from tests.stores.loop import run

flannels = {
    "kube-subnet-manager": "true",
    "backend-type": "vxlan",
    "backend-data": f'{{"VNI":1,"VtepMAC":"{mac}"}}',
    "public-ip": "192.0.2.1",
}


def patches(server: Server, name: str) -> int:
    return sum(request["method"] == "PATCH" and f"/{name}/" in request["url"] for request in server.requests())


def acquire(store: KubeStore, attrs: LeaseAttrs = vxlan) -> Lease:
    async def work() -> Lease:
        try:
            return await store.acquire(attrs, None)
        finally:
            await store.close()

    return run(work())


async def shown(server: Server, name: str, status: str) -> None:
    """Wait until the Node has the condition NetworkUnavailable with this status."""

    def there() -> bool:
        conditions = server.node(name)["status"]["conditions"]
        return [one["status"] for one in conditions if one["type"] == "NetworkUnavailable"] == [status]

    await asyncio.to_thread(wait_for, there, 20, f"NetworkUnavailable {status}")
