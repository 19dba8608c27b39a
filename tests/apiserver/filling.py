"""Many Nodes as big as real ones, and the heartbeats of all of them, made in the server without a request for each.

What must stay true: they are what flanneld, kubelet and controller manager write, in size and in what changes: a heartbeat
is a write of its own for each Node and changes nothing that flannel reads.
Source: k8s.io/api/core/v1 types.go (Node); kubelet's --node-status-max-images, 50 where nobody sets it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from ipaddress import IPv4Address

import msgspec

from tests.apiserver.objects import Objects
from tests.apiserver.statuses import Document

_piece = 250  # Nodes made between two turns of everything else
_least_s = 0.001
_pressures = ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
_most_images = 50
_prefix = "flannel.alpha.coreos.com/"


async def fill(objects: Objects, nodes: int, size: int, first: int = 1) -> None:
    """Make Nodes node-`first` … with pod subnets of 10.0.0.0/8 and flannel's annotations, each of `size` bytes or so.

    Args:
        size: without images a Node has 3 kB.
    """
    images = _images(size - len(msgspec.json.encode(_node(first, []))))
    for begun in range(first, first + nodes, _piece):
        numbers = range(begun, min(begun + _piece, first + nodes))
        objects.record("nodes", [(f"node-{number:05}", _node(number, images)) for number in numbers])
        await objects.tell()
        await asyncio.sleep(0)


async def beat(objects: Objects, every_s: float, seconds: float) -> None:
    """Write every Node's status anew every so often, evenly spread, for so long."""
    now = asyncio.get_running_loop().time
    begun, done = now(), 0
    keys = objects.keys("nodes")
    while keys and (passed := now() - begun) < seconds:
        due = int(passed / every_s * len(keys))
        turn = [keys[number % len(keys)] for number in range(done, due)]
        done = due
        writes = [(key, _beaten(node)) for key in turn if (node := objects.get("nodes", key)) is not None]
        if writes:
            objects.record("nodes", writes)
            await objects.tell()
        # Each when it is due, for they come one by one.
        await asyncio.sleep(max(_least_s, (done + 1) * every_s / len(keys) - (now() - begun)))


def _beaten(node: Document) -> Document:
    now = _now()
    for condition in node["status"]["conditions"]:
        condition["lastHeartbeatTime"] = now
    for field in node["metadata"].get("managedFields", ()):
        if field["manager"] == "kubelet":
            field["time"] = now
    return node


def _images(size: int) -> list[Document]:
    """Return so many bytes of images, as few as a kubelet reports."""

    def image(number: int, tag: str = "") -> Document:
        names = [f"registry.example/image-{number}@sha256:{number:064x}", f"registry.example/image-{number}:{tag}"]
        return {"names": names, "sizeBytes": 123_456_789}

    least = len(msgspec.json.encode(image(10))) + 1
    each = max(least, size // _most_images)
    return [image(number, "t" * (each - least)) for number in range(size // each)]


def _node(number: int, images: list[Document]) -> Document:
    name, now = f"node-{number:05}", _now()
    subnet = f"{IPv4Address('10.0.0.0') + (number << 8)}/24"
    address = str(IPv4Address("198.18.0.0") + number)
    mac = f"02:00:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    conditions = [
        {"type": kind, "status": "False", "reason": f"KubeletHas{kind}", "message": f"kubelet reports {kind}",
         "lastHeartbeatTime": now, "lastTransitionTime": now}
        for kind in _pressures
    ]  # fmt: skip
    network = {
        "type": "NetworkUnavailable", "status": "False", "reason": "FlannelIsUp",
        "message": "Flannel is running on this node", "lastHeartbeatTime": now, "lastTransitionTime": now,
    }  # fmt: skip
    resources = {"cpu": "8", "ephemeral-storage": "101430960Ki", "hugepages-2Mi": "0", "memory": "32Gi", "pods": "110"}
    written: Document = {
        f"f:{kind}": {"f:lastHeartbeatTime": {}, "f:message": {}, "f:status": {}} for kind in _pressures
    }
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"},
            "annotations": {
                f"{_prefix}kube-subnet-manager": "true",
                f"{_prefix}backend-type": "vxlan",
                f"{_prefix}backend-data": f'{{"VNI":1,"VtepMAC":"{mac}"}}',
                f"{_prefix}public-ip": address,
                "node.alpha.kubernetes.io/ttl": "0",
                "volumes.kubernetes.io/controller-managed-attach-detach": "true",
            },
            "managedFields": [
                {"manager": "flanneld", "operation": "Update", "apiVersion": "v1", "time": now, "fieldsType": "FieldsV1",
                 "fieldsV1": {"f:metadata": {"f:annotations": {f"f:{_prefix}backend-data": {}}}}, "subresource": "status"},
                {"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "time": now, "fieldsType": "FieldsV1",
                 "fieldsV1": {"f:status": {"f:conditions": written, "f:images": {}}}, "subresource": "status"},
            ],
        },
        "spec": {"podCIDR": subnet, "podCIDRs": [subnet]},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [network, *conditions],
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "nodeInfo": {"kubeletVersion": "v1.34.1", "osImage": "Debian GNU/Linux 13", "kernelVersion": "6.12.0"},
            "images": images,
        },
    }  # fmt: skip


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
