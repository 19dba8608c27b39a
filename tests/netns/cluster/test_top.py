"""`dataplane top` of a node with traffic."""

from __future__ import annotations

import sys

from dataplane.lab.commands import wait_for
from tests.lab_fixtures import MakeLab
from tests.traffic import LongPing


def test_peers_and_drops(make_lab: MakeLab) -> None:
    lab = make_lab("vxlan", "dataplane", "dataplane", ipv6=False)
    node, other = lab.daemons
    ping = LongPing(lab.pods[0].name, lab.pods[1].address, interval=0.01)
    lost = LongPing(lab.pods[0].name, "10.244.0.1", interval=0.05)  # no node has it
    wait_for(lambda: node.drops().get("send_no_route"), 60, "drops")
    words = (sys.executable, "-m", "dataplane", "top", "--interval=1", "--count=2", f"--run-dir={node.run_dir}")
    said = node.run(*words).stdout
    ping.stop()
    lost.stop()
    prefix = str(other.pod_net().ipv4)
    rows = [line.split() for line in said.splitlines() if line.startswith(prefix)]
    assert len(rows) == 2
    assert all(10 < float(row[1]) < 200 and 10 < float(row[3]) < 200 for row in rows), said
    assert said.count("send_no_route: no node holds the destination") == 2
    assert not any(line.endswith(" ") for line in said.splitlines())
