"""Prometheus metrics, read from `NodeState` at each scrape.

What must stay true: nothing is counted twice or kept here, names are the contract's, and a peer that goes takes
its series with it. A device that is rebuilt starts its counters at zero, which Prometheus takes for a restart.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dataplane.observe.state import NodeState

peer_fields = ("tx_packets", "tx_bytes", "rx_packets", "rx_bytes")
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
    """Yields every metric of one node."""

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
        peers = {
            name: CounterMetricFamily(f"dataplane_peer_{name}", f"Inner {name} by peer subnet", labels=("peer",))
            for name in peer_fields
        }
        unreachables = CounterMetricFamily(
            "dataplane_peer_icmp_unreachables",
            "ICMP errors that say a peer is unreachable, by its subnet",
            labels=("peer",),
        )
        unreachable = GaugeMetricFamily(
            "dataplane_peer_unreachable", "1 while ICMP says that a peer is unreachable", labels=("peer",)
        )
        for device, peer, counters in self._state.peers():
            label = (str(peer.prefix),)
            for name, family in peers.items() if counters is not None else ():
                family.add_metric(label, getattr(counters, name))
            if device.port and peer.next_hop is not None:
                told = device.unreachable.get(peer.next_hop)
                unreachables.add_metric(label, 0 if told is None else told.count)
                unreachable.add_metric(label, told is not None and told.reason is not None)
        yield from (*peers.values(), unreachables, unreachable)

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


def render(state: NodeState) -> bytes:
    """Return the metrics of `state` in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(state))
    return generate_latest(registry)
