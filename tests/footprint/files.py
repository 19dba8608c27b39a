"""A footprint, and its file as others may have changed it."""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from dataplane.footprint import record
from dataplane.footprint.form import Footprint

mac, other_mac = "02:00:00:00:00:01", "02:00:00:00:00:02"
net, subnet = IPv4Network("10.3.0.0/16"), IPv4Network("10.3.5.0/24")
ours = Footprint({"none-such": frozenset({mac})}, ("eth0",), (net,), (subnet,), False, False, "/nonexistent/subnet.env")


def written(run_dir: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run_dir / "footprint.json").read_text())
    return document


def put(run_dir: Path, **changes: object) -> str:
    """Write ours with changes; None takes an entry away."""
    record.add(run_dir, ours)
    document = {key: value for key, value in (written(run_dir) | changes).items() if value is not None}
    (run_dir / "footprint.json").write_text(json.dumps(document))
    return json.dumps(document)
