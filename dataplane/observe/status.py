"""The status document: the node's truth as JSON (design: the contract), served on a unix socket by `health.py`.

Pure. What must stay true: every key of the contract is always there, null or empty where there is nothing yet; the
document is made part by part, since that of a node with 100,000 leases takes a second.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from dataplane.model import Lease, Peer, PeerCounters
from dataplane.observe.state import DeviceState, NodeState, PeerUnreachable, unreachable_words
from dataplane.runtime.pieces import batched
from dataplane.runtime.place import here


def document(state: NodeState) -> Iterator[bytes]:
    """Yield the status document, each part little work. Times are Unix seconds, sizes bytes."""
    yield json.dumps(_facts(state)).encode().removesuffix(b"}")
    yield from _list("problems", state.problems())
    yield from _list("peers", (_peer(state, *row) for row in state.peers()))
    for name, told in (("refused_leases", state.refused), ("mismatched_leases", state.mismatched)):
        yield from _list(name, ({"lease": key, "reason": text} for key, text in list(told.items())))
    yield b"}"


def _list(name: str, items: Iterator[Any]) -> Iterator[bytes]:
    yield f', "{name}": ['.encode()
    between = b""
    for some in batched(items):
        yield between + json.dumps(some)[1:-1].encode()
        between = b", "
    yield b"]"


def _facts(state: NodeState) -> dict[str, Any]:
    """Return all but the lists that grow with the leases."""
    lease = state.lease
    interface = state.interface
    return {
        "ready": not state.unready(),
        "interface": None
        if interface is None
        else {
            "name": interface.name,
            "address": interface.address,
            "mtu": interface.mtu,
            "reason": interface.reason,
        },
        "backend": state.backend or None,
        "datapath": None if state.datapath is None else {"kind": state.datapath.kind, "reason": state.datapath.reason},
        "network": list(state.network),
        "lease": None if lease is None else _lease(lease, state.vtep_mac),
        "subnet_file": state.subnet_file,
        "devices": [_device(state, device) for device in state.devices.values()],
        "drops": state.drops(),
        "host_drops": state.host_drops(),
        "counters": state.counters(),
        "events": dict(state.events),
        "store": {"last_contact": state.store_contact},
        "pid": os.getpid(),
        "netns": here().netns or None,
        "started": state.started,
        "forwarding_since": state.forwarding_since,
        "time": state.now(),
    }


def _lease(lease: Lease, vtep_mac: str) -> dict[str, Any]:
    return {
        "subnet": _text(lease.subnet),
        "ipv6_subnet": _text(lease.ipv6_subnet),
        "public_ip": _text(lease.attrs.public_ip),
        "public_ipv6": _text(lease.attrs.public_ipv6),
        "vtep_mac": vtep_mac or None,
        "expires": lease.expires,
    }


def _device(state: NodeState, device: DeviceState) -> dict[str, Any]:
    return {
        "name": device.name,
        "index": device.index,
        "mtu": device.mtu,
        "port": device.port,
        "workers": device.workers,
        "workers_alive": state.workers_alive(device),
        "admission": device.admission or None,
        "offloads": sorted(device.forwarding.offloads) if device.forwarding else [],
    }


def _peer(state: NodeState, device: DeviceState, peer: Peer, counters: PeerCounters | None) -> dict[str, Any]:
    told = None if peer.next_hop is None else device.unreachable.get(peer.next_hop)
    return {
        "subnet": str(peer.prefix),
        "public_ip": str(peer.next_hop),
        "vtep_mac": peer.vtep_mac.hex(":") if any(peer.vtep_mac) else None,
        "device": device.name,
        "direct": peer.prefix in device.direct,
        "tx_packets": None if counters is None else counters.tx_packets,
        "tx_bytes": None if counters is None else counters.tx_bytes,
        "rx_packets": None if counters is None else counters.rx_packets,
        "rx_bytes": None if counters is None else counters.rx_bytes,
        "icmp_unreachables": 0 if told is None else told.count,
        "unreachable": None if told is None else _unreachable(told),
        **_heard(state, device, peer),
    }


def _heard(state: NodeState, device: DeviceState, peer: Peer) -> dict[str, Any]:
    """When it was heard, and whether it is silent: null where that is not known."""
    known = device.heard.get(peer.prefix)
    now = state.monotonic()
    silent = None if known is None else known.silent_s(now)
    return {
        "heard": None if known is None or known.last is None else state.now() - (now - known.last),
        "silent": None if known is None or silent is None else {"seconds": silent, "packets": known.asked},
    }


def _unreachable(told: PeerUnreachable) -> dict[str, Any] | None:
    if told.reason is None:
        return None
    return {
        "reason": told.reason,
        "text": unreachable_words[told.reason],
        "said_by": str(told.said_by),
        "since": told.since,
        "last": told.last,
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)
