"""Twenty restarts in a row beside a node whose processors are busy: 3,000 datagrams, not one lost, no connection, no silence."""

from __future__ import annotations

import pytest

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.steady import Steady
from tests.lab_fixtures import MakeLab
from tests.netns.life.systemd_node import SystemdNode, installed
from tests.netns.life.test_takeover import nothing_lost, take_over
from tests.traffic import flooded

pytestmark = pytest.mark.long


@pytest.mark.parametrize("backend", ["udp", "vxlan"])
@pytest.mark.parametrize("workers", [1, 2])
def test_by_takeover(make_lab: MakeLab, backend: str, workers: int) -> None:
    """Another pod floods meanwhile, by the same workers and sockets."""
    lab = make_lab(backend, "dataplane", "dataplane", ipv6=False, pods=2, options=(f"--workers={workers}",))
    node = lab.daemons[0]
    one, loud, other, quiet = lab.pods
    with flooded(loud.name, quiet.address, 500.0), Steady(one, other) as steady:
        restarts = 0
        while restarts < 20 or steady.elapsed_s < 31:
            take_over(node)
            restarts += 1
        seen = steady.stop()
    print(f"{backend}, {workers} workers: {restarts} restarts, {seen}")
    assert nothing_lost(seen) and seen.sent >= 3000, f"{seen}\n{lab.logs()}"


@pytest.mark.parametrize("backend", ["udp", "vxlan"])
@pytest.mark.parametrize("workers", [1, 2])
def test_by_systemd(tmp_path_factory: pytest.TempPathFactory, backend: str, workers: int) -> None:
    with Lab(net_conf(backend), options=(f"--workers={workers}",)) as lab:
        service = SystemdNode(lab, installed(tmp_path_factory))
        try:
            service.wait_other(0)
            service.node.add_pod(), service.node.add_pod()
            lab.start("dataplane", pods=2)
            one, loud, other, quiet = lab.pods
            with flooded(loud.name, quiet.address, 500.0), Steady(one, other) as steady:
                restarts = 0
                while restarts < 20 or steady.elapsed_s < 31:
                    started = service.started()
                    service.systemctl("restart", "dataplane")
                    service.wait_other(started)
                    restarts += 1
                seen = steady.stop()
        finally:
            service.close()
    print(f"{backend}, {workers} workers, systemctl restart: {restarts} restarts, {seen}")
    assert nothing_lost(seen) and seen.sent >= 3000, f"{seen}"
