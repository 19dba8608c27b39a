"""A peer that is sent to and does not answer is named, until it does; one that is not sent to is not."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from tests.lab_fixtures import MakeLab
from tests.traffic import LongPing

pytestmark = pytest.mark.long
drop = (
    "add table inet siege; add chain inet siege input {{ type filter hook input priority -200; }}; "
    "add rule inet siege input udp dport {port} drop"
)


def told(node: DaemonNode, prefix: str) -> dict[str, Any]:
    status = node.status()
    assert status is not None
    (found,) = (peer for peer in status["peers"] if peer["subnet"] == prefix)
    return dict(found)


@pytest.mark.parametrize("backend", ["udp", "vxlan"])
def test_a_firewall_on_the_way(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane", "dataplane", "dataplane", ipv6=False)
    one, other, quiet = lab.daemons
    prefixes = [str(node.pod_net().ipv4) for node in (other, quiet)]
    wait_for(lambda: lab.pods[0].ping(lab.pods[1]).ok and told(one, prefixes[0])["heard"], 90, "the peer to be heard")
    port = (one.status() or {})["devices"][0]["port"]
    other.run("nft", drop.format(port=port))
    through = LongPing(lab.pods[0].name, lab.pods[1].address, interval=0.2)
    wait_for(lambda: told(one, prefixes[0])["silent"], 90, "the peer to be silent")
    assert told(one, prefixes[0])["heard"] is not None
    assert (told(one, prefixes[1])["silent"], told(one, prefixes[1])["heard"]) == (None, None)
    said = one.run(sys.executable, "-m", "dataplane", "status", f"--run-dir={one.run_dir}").stdout
    assert prefixes[0] in said[said.index("silent") :] and "drops the port" in said
    assert not any(line.endswith(" ") for line in said.splitlines())
    other.run("nft", "delete table inet siege")
    wait_for(lambda: told(one, prefixes[0])["silent"] is None, 90, "the peer to be heard again")
    assert through.stop().received > 0
