"""Who floods delays and loses nobody else's packets: they wait in queues of their own.

The flood is small packets of one inner source, many to a call, more than the workers carry; it goes on until it is ended.
"""

from __future__ import annotations

import pytest

from dataplane.lab.commands import wait_for
from tests.lab_fixtures import MakeLab
from tests.traffic import LongPing, flooded

pytestmark = pytest.mark.alone
longest_s = 60.0


@pytest.mark.parametrize("backend", ["udp", "vxlan"])
@pytest.mark.parametrize("where", ["a pod of this node", "a leased peer"])
def test_a_flood_loses_only_its_own(backend: str, where: str, make_lab: MakeLab) -> None:
    lab = make_lab(backend, "dataplane", "dataplane", "dataplane", ipv6=False)
    near, far, third = lab.daemons
    one, two = near.pods[0], far.pods[0]
    flooder = near.add_pod() if where == "a pod of this node" else third.pods[0]
    full, reason = (near, "tun_queue") if where == "a pod of this node" else (far, "receive_socket")
    with flooded(flooder.name, two.address, longest_s):
        wait_for(
            lambda: full.drops().get(reason, 0) > 0 or third.drops().get("tun_queue", 0) > 0, 90, "a queue to be full"
        )
        there, back = LongPing(one.name, two.address), LongPing(two.name, one.address)
        wait_for(lambda: there.answers >= 200 and back.answers >= 200, longest_s, "two hundred answers each way")
        seen = [there.stop(), back.stop()]
    assert [each.received for each in seen] == [each.sent for each in seen], [each.text for each in seen]
