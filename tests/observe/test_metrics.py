"""Metrics: names and shapes are the contract's."""

from __future__ import annotations

from dataplane.observe.metrics import render
from tests.observe.node import running


def test_metrics_text() -> None:
    state, _, _ = running()
    state.events["store_errors"] = 3
    state.refused["x"] = "y"
    lines = b"".join(render(state)).decode().splitlines()
    for line in (
        'dataplane_drops_total{reason="send_no_route"} 5.0',
        'dataplane_drops_total{reason="receive_vni"} 0.0',
        'dataplane_peer_tx_packets_total{peer="10.244.2.0/24"} 1.0',
        'dataplane_peer_tx_bytes_total{peer="10.244.2.0/24"} 20.0',
        'dataplane_peer_rx_packets_total{peer="10.244.2.0/24"} 3.0',
        'dataplane_peer_rx_bytes_total{peer="10.244.2.0/24"} 40.0',
        'dataplane_peer_icmp_unreachables_total{peer="10.244.2.0/24"} 0.0',
        "dataplane_ready 1.0",
        "dataplane_leases 1.0",
        "dataplane_refused_leases 1.0",
        "dataplane_lease_expiry_seconds 7200.0",
        "dataplane_store_errors_total 3.0",
        "dataplane_store_last_contact_timestamp_seconds 1e+06",
        'dataplane_workers_alive{device="flannel.1"} 2.0',
        "dataplane_tx_packets_total 9.0",
    ):
        assert line in lines, line
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
