"""Status documents of a node with one peer of two prefixes, as far as `dataplane ping` reads them."""

from __future__ import annotations

from typing import Any


def document(
    *,
    backend: str = "vxlan",
    direct: bool = False,
    counts: tuple[int, int] | None = (0, 0),
    unreachable: dict[str, Any] | None = None,
    drops: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Return one; `counts` are packets sent to the peer and received from it."""
    sent, received = (None, None) if counts is None else counts

    def peer(subnet: str, public: str, device: str) -> dict[str, Any]:
        return {
            "subnet": subnet,
            "public_ip": public,
            "device": device,
            "direct": direct,
            "tx_packets": sent,
            "rx_packets": received,
            "unreachable": unreachable,
        }

    return {
        "backend": backend,
        "lease": {"subnet": "10.244.1.0/24", "ipv6_subnet": "fd00:244:0:1::/64", "public_ip": "192.0.2.1"},
        "devices": [{"name": "flannel.1", "mtu": 1450}, {"name": "flannel-v6.1", "mtu": 1430}],
        "peers": [
            peer("10.244.2.0/24", "192.0.2.2", "flannel.1"),
            peer("fd00:244:0:2::/64", "2001:db8::2", "flannel-v6.1"),
        ],
        "drops": drops or {},
    }
