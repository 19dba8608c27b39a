"""What of a store's list of 100,000 leases is one call that nothing interrupts: CPU time of each, the better of two.

    .venv/bin/python bench/holds_stores.py [--leases 100000]

A list is decoded in a thread (etcd, the embedded store) or page by page (Kubernetes), so what holds the event loop is
a single call into C, which keeps the interpreter to itself, and the garbage collector, whose longest run is shown too.
The rest is bench/holds.py's.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from many_leases import conf, good

from dataplane.flannel.lease_format import encode_value
from dataplane.model import Snapshot
from dataplane.runtime import collector
from dataplane.stores.embedded import rows
from dataplane.stores.embedded.database import Database, LeaseClock
from dataplane.stores.etcd import etcd_pb2 as pb
from dataplane.stores.etcd.leases import snapshot
from dataplane.stores.kube.client import page_size
from dataplane.stores.kube.nodes import Nodes
from dataplane.stores.kube.objects import NodeList

rounds = 2
_begun = [0.0]
_longest = [0.0]


def _collected(phase: str, _: Mapping[str, int]) -> None:
    if phase == "start":
        _begun[0] = time.thread_time()
    else:
        _longest[0] = max(_longest[0], time.thread_time() - _begun[0])


def _took(what: str, work: Callable[[], object], note: str = "") -> None:
    best, collected = 1e9, 0.0
    for _ in range(rounds):
        collector.settle()
        _longest[0] = 0.0
        begun = time.thread_time()
        result = work()
        best = min(best, time.thread_time() - begun)
        collected = max(collected, _longest[0])
        del result
    print(f"{what:70} {1e3 * best:8.1f} ms  collector {1e3 * collected:5.1f} ms  {note}", flush=True)


def _freed(what: str, make: Callable[[], list[object]]) -> None:
    best = 1e9
    for _ in range(rounds):
        held = make()
        collector.settle()
        begun = time.thread_time()
        held.clear()
        best = min(best, time.thread_time() - begun)
    print(f"{what:70} {1e3 * best:8.1f} ms", flush=True)


def etcd(leases: int) -> None:
    folder = b"/coreos.com/network/subnets/"
    answer = pb.RangeResponse()
    for number in range(1, leases + 1):
        lease = good(number)
        answer.kvs.add(
            key=folder + lease.key.encode(),
            value=encode_value(lease.attrs),
            mod_revision=number,
            create_revision=number,
        )
    message = answer.SerializeToString()
    _took(
        "etcd: the answer out of its bytes, in the event loop's thread",
        lambda: pb.RangeResponse.FromString(message),
        f"{len(message) / 1e6:.0f} MB",
    )
    _took("etcd: the whole decoded, in a thread", lambda: snapshot(answer.kvs, folder), "interruptible")
    _freed("etcd: what was known before, freed", lambda: [snapshot(answer.kvs, folder)])
    _freed("etcd: the answer, freed", lambda: [pb.RangeResponse.FromString(message)])


def local(leases: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        database = Database(Path(directory) / "leases.sqlite3", 86400.0, LeaseClock(), create=True)
        with database.write() as connection:
            made = (
                (str(lease.subnet), str(lease.attrs.public_ip), encode_value(lease.attrs).decode())
                for lease in map(good, range(1, leases + 1))
            )
            connection.executemany("INSERT INTO lease (subnet, node, value) VALUES (?, ?, ?)", made)

        def read() -> Snapshot:
            with database.read() as connection:
                return rows.snapshot(connection)

        _took("embedded store: the whole decoded, in a thread", read, "interruptible")
        _freed("embedded store: a snapshot that nobody shares, freed", lambda: [read()])
        database.close()


def kube(leases: int) -> None:
    def page(padding: int, extra: int, first: int, nodes: int) -> bytes:
        items = [
            {
                "metadata": {
                    "name": f"node-{number}",
                    "creationTimestamp": "2026-01-02T03:04:05Z",
                    "annotations": {
                        "flannel.alpha.coreos.com/kube-subnet-manager": "true",
                        "flannel.alpha.coreos.com/backend-type": "vxlan",
                        "flannel.alpha.coreos.com/public-ip": str(lease.attrs.public_ip),
                        "flannel.alpha.coreos.com/backend-data": json.dumps(lease.attrs.backend_data),
                        "other.example/text": "x" * extra,
                    },
                },
                "spec": {"podCIDRs": [str(lease.subnet)]},
                "status": {"images": ["y" * 100] * (padding // 100)},
            }
            for number, lease in ((number, good(number)) for number in range(first, first + nodes))
        ]
        return json.dumps({"metadata": {"resourceVersion": "7"}, "items": items}).encode()

    usual, largest = page(10_000, 0, 1, page_size), page(10_000, 250_000, 1, page_size)
    for what, body in (("of 10 kB each", usual), ("of 260 kB each, the most there can be", largest)):
        _took(
            f"Kubernetes: a page of {page_size} Nodes {what}",
            lambda body=body: msgspec.json.decode(body, type=NodeList),
            f"{len(body) / 1e6:.0f} MB",
        )
    nodes = Nodes("flannel.alpha.coreos.com/", conf)
    first = 1
    while first <= leases:
        for node in collector.settling(msgspec.json.decode(page(0, 0, first, page_size), type=NodeList).items):
            nodes.put(node)
        first += page_size
    _took("Kubernetes: the snapshot out of what is known", nodes.snapshot)
    names = {f"node-{number}" for number in range(1, leases + 1)}
    _took("Kubernetes: who is not there any more", lambda: nodes.others(names))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stores = {"etcd": etcd, "local": local, "kube": kube}
    parser.add_argument("stores", nargs="*", default=list(stores), metavar="STORE", help=", ".join(stores))
    parser.add_argument("--leases", type=int, default=100_000)
    args = parser.parse_args()
    gc.callbacks.append(_collected)
    for name in args.stores:
        stores[name](args.leases)
    return 0


if __name__ == "__main__":
    sys.exit(main())
