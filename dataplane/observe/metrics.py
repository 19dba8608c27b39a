"""Prometheus metrics, read from `NodeState` at each scrape.

What must stay true: nothing is counted twice or kept here, names are the contract's, and a peer that goes takes
its series with it. A device that is rebuilt starts its counters at zero, which Prometheus takes for a restart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dataplane.model import Peer, PeerCounters
from dataplane.observe.state import DeviceState, NodeState
from dataplane.runtime.pieces import batched

peer_fields = ("tx_packets", "tx_bytes", "rx_packets", "rx_bytes")
_unreachables, _unreachable = "dataplane_peer_icmp_unreachables_total", "dataplane_peer_unreachable"
_heard, _silent = "dataplane_peer_last_heard_timestamp_seconds", "dataplane_peer_silent"
_peer_families = {
    **{f"dataplane_peer_{name}_total": ("counter", f"Inner {name} by peer subnet") for name in peer_fields},
    _unreachables: ("counter", "ICMP errors that say a peer is unreachable, by its subnet"),
    _unreachable: ("gauge", "1 while ICMP says that a peer is unreachable"),
    _heard: ("gauge", "Unix time when something valid last came from a peer, if that is known"),
    _silent: ("gauge", "1 while a peer is sent to and nothing comes from it"),
}
event_help = {
    "store_errors": "Failed contacts with the lease store",
    "table_updates": "Times the forwarding table was changed",
    "device_rebuilds": "Times a TUN device and its forwarder were built again",
    "repairs": "Addresses, routes, link settings, firewall rules and subnet.env put back after somebody removed them",
    "lease_renewals": "Renewals of our own lease",
    "foreign_lease_writes": "Times that somebody else wrote our own lease: another node has our public address",
    "task_failures": "Times a background task failed unexpectedly and was begun again",
}


class NodeCollector(Collector):
    """Yields every metric of one node but those by peer."""

    def __init__(self, state: NodeState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families as of now."""
        yield from self._gauges()
        yield from self._devices()
        drops = CounterMetricFamily("dataplane_drops", "Packets dropped, by reason", labels=("reason",))
        for reason, count in self._state.drops().items():
            drops.add_metric((reason,), count)
        yield drops
        text = "Packets that the kernel lost on this host's underlay, other programs' among them, by reason"
        host_drops = CounterMetricFamily("dataplane_host_drops", text, labels=("reason",))
        for reason, count in self._state.host_drops().items():
            host_drops.add_metric((reason,), count)
        yield host_drops
        for name, count in self._state.counters().items():
            yield CounterMetricFamily(f"dataplane_{name}", f"Core total {name}, all devices", value=count)
        for name, text in event_help.items():
            yield CounterMetricFamily(f"dataplane_{name}", text, value=self._state.events[name])

    def _gauges(self) -> Iterator[Metric]:
        state = self._state
        yield GaugeMetricFamily("dataplane_ready", "1 when the node is ready", value=not state.unready())
        yield GaugeMetricFamily("dataplane_leases", "Leases of other nodes in use", value=state.leases)
        yield GaugeMetricFamily("dataplane_refused_leases", "Leases that cannot be used", value=len(state.refused))
        if state.lease is not None and state.lease.expires is not None:
            yield GaugeMetricFamily(
                "dataplane_lease_expiry_seconds",
                "Seconds until our lease expires; negative when it has",
                value=state.lease.expires - state.now(),
            )
        yield GaugeMetricFamily(
            "dataplane_start_timestamp_seconds", "Unix time at which this daemon began", value=state.started
        )
        if state.forwarding_since is not None:
            yield GaugeMetricFamily(
                "dataplane_forwarding_since_timestamp_seconds",
                "Unix time since when packets are forwarded without a break that is known of, by this daemon or those before",
                value=state.forwarding_since,
            )
        if state.store_contact is not None:
            yield GaugeMetricFamily(
                "dataplane_store_last_contact_timestamp_seconds",
                "Unix time of the last successful contact with the lease store",
                value=state.store_contact,
            )

    def _devices(self) -> Iterator[Metric]:
        families = {
            "workers": GaugeMetricFamily("dataplane_workers", "Workers configured", labels=("device",)),
            "alive": GaugeMetricFamily("dataplane_workers_alive", "Workers running", labels=("device",)),
            "prefixes": GaugeMetricFamily("dataplane_table_prefixes", "Prefixes in the table", labels=("device",)),
        }
        for device in self._state.devices.values():
            label = (device.name,)
            families["workers"].add_metric(label, device.workers)
            families["alive"].add_metric(label, self._state.workers_alive(device))
            families["prefixes"].add_metric(label, len(device.forwarding.peers) if device.forwarding else 0)
        yield from families.values()


def render(state: NodeState) -> Iterator[bytes]:
    """Yield the metrics of `state` in Prometheus' text format, each part little work."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(state))
    yield generate_latest(registry)
    # The library would make some million objects of 100,000 peers, in one go.
    made: dict[str, list[bytes]] = {name: [] for name in _peer_families}
    for rows in batched(state.peers()):
        for name, values in _peer_values(state, rows).items():
            lines = (f'{name}{{peer="{prefix}"}} {float(value)}\n' for prefix, value in values)
            made[name].append("".join(lines).encode())
        yield b""
    for name, (kind, text) in _peer_families.items():
        yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n".encode()
        yield b"".join(made[name])


def _peer_values(
    state: NodeState, rows: Sequence[tuple[DeviceState, Peer, PeerCounters | None]]
) -> dict[str, list[tuple[str, float]]]:
    """Return, by metric, peers' prefixes and values."""
    values: dict[str, list[tuple[str, float]]] = {
        f"dataplane_peer_{name}_total": [
            (str(peer.prefix), getattr(counters, name)) for _, peer, counters in rows if counters is not None
        ]
        for name in peer_fields
    }
    told = [
        (str(peer.prefix), device.unreachable.get(peer.next_hop))
        for device, peer, _ in rows
        if device.port and peer.next_hop is not None
    ]
    values[_unreachables] = [(prefix, 0 if each is None else each.count) for prefix, each in told]
    values[_unreachable] = [(prefix, each is not None and each.reason is not None) for prefix, each in told]
    wall, now = state.now(), state.monotonic()
    heard = [(str(peer.prefix), known) for device, peer, _ in rows if (known := device.heard.get(peer.prefix))]
    values[_heard] = [(prefix, wall - (now - known.last)) for prefix, known in heard if known.last is not None]
    values[_silent] = [(prefix, known.silent_s(now) is not None) for prefix, known in heard]
    return values
