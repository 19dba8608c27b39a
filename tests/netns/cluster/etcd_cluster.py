"""A lab whose leases are in a real etcd, behind a relay on the underlay that delays, cuts and freezes."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import batch
from dataplane.lab.node import DaemonNode
from dataplane.lab.topology import Underlay
from dataplane.stores.etcd import etcd_pb2 as pb
from dataplane.stores.etcd.access import read_access
from dataplane.stores.etcd.store import EtcdStore
from tests.netns.store_cluster import StoreCluster
from tests.stores.etcd.server import Place, Relay, Server

Value = TypeVar("Value")
address = "192.0.2.250"  # of the relay, on the underlay's bridge
prefix = "/coreos.com/network"
largest_txn = 128  # operations; etcd's own limit


class EtcdCluster(StoreCluster):
    """etcd, relay and lab; a context manager."""

    def __init__(
        self,
        directory: Path,
        backend: str,
        *,
        ipv6: bool = False,
        options: Mapping[str, Any] | None = None,
        flags: tuple[str, ...] = (),
        subnet_len: int = 24,
    ) -> None:
        with ExitStack() as undo:
            underlay = Underlay()
            undo.callback(underlay.close)
            batch(None, f"address add {address}/24 dev {underlay.prefix}")
            self.server = undo.enter_context(Server(directory))
            conf = net_conf(backend, ipv6=ipv6, options=options) | {"SubnetLen": subnet_len}
            self.server.ctl("put", f"{prefix}/config", json.dumps(conf))
            self.place = Place(self.server, prefix)
            self._loop = asyncio.new_event_loop()
            thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
            thread.start()
            undo.callback(self._loop.close)
            undo.callback(thread.join)
            undo.callback(self._loop.call_soon_threadsafe, self._loop.stop)
            self._relay = Relay(self.server.port, address)
            self.call(self._relay.__aenter__())
            undo.callback(lambda: self.call(self._relay.__aexit__()))
            self.lab = Lab(conf, options=flags, underlay=underlay, etcd=self._relay.url)
            undo.callback(self.lab.close)
            self.undo = undo.pop_all()

    def call(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Run something in the relay's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=200)

    def tell(self, change: Callable[[Relay], None]) -> None:
        """Change how the relay behaves."""

        async def apply() -> None:
            change(self._relay)

        self.call(apply())

    def cut_off(self) -> None:
        """Break every connection, and each new one."""

        def cut(relay: Relay) -> None:
            relay.refusing = True
            relay.cut()

        self.tell(cut)

    def let_through(self) -> None:
        self.tell(lambda relay: setattr(relay, "refusing", False))

    def write(self, puts: Mapping[str, str], deletes: tuple[str, ...] = (), *, ttl: int = 3600) -> None:
        """Put and delete keys below subnets/, past the relay, many in one transaction; they live `ttl` seconds."""

        async def work() -> None:
            store = EtcdStore(read_access(self.server.url))
            try:
                client = store._client
                granted = await client.write("Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=ttl), pb.LeaseGrantResponse)
                operations = [
                    pb.RequestOp(
                        request_put=pb.PutRequest(
                            key=f"{prefix}/subnets/{key}".encode(), value=value.encode(), lease=granted.ID
                        )
                    )
                    for key, value in puts.items()
                ]
                operations += [
                    pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=f"{prefix}/subnets/{key}".encode()))
                    for key in deletes
                ]
                for at in range(0, len(operations), largest_txn):
                    request = pb.TxnRequest(success=operations[at : at + largest_txn])
                    await client.write("KV/Txn", request, pb.TxnResponse)
            finally:
                await store.close()

        asyncio.run(work())

    def stored(self) -> dict[str, str]:
        """Subnet to public address, as the store has it."""
        lines = self.place.raw().splitlines()
        return {
            key.rpartition("/")[2].partition("&")[0].replace("-", "/"): json.loads(value)["PublicIP"]
            for key, value in zip(lines[::2], lines[1::2], strict=True)
        }

    def is_equal(self, node: DaemonNode) -> bool:
        """Whether the node's peers and its own lease are exactly what the store has."""
        status = node.status()
        if status is None or status["lease"] is None:
            return False
        known = {peer["subnet"]: peer["public_ip"] for peer in status["peers"] if ":" not in peer["subnet"]}
        known[status["lease"]["subnet"]] = status["lease"]["public_ip"]
        return known == self.stored()


def lease(number: int, round_: int = 0) -> tuple[str, str]:
    """Key and value of another node's vxlan lease on the `number`th /26 of the overlay; `round_` changes its MAC."""
    subnet = IPv4Address("10.244.0.0") + 64 * number
    data = f'{{"VNI":1,"VtepMAC":"02:00:{round_:02x}:00:{number >> 8:02x}:{number & 255:02x}"}}'
    public = f"198.18.{number >> 8}.{number & 255}"
    return f"{subnet}-26", f'{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{data}}}'
