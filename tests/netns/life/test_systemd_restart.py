"""The unit of deploy/ under a real systemd: restarted, reloaded, killed, with traffic; it loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dataplane.keepers.device import receive_queues, tun_queues, vxlan_sources
from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import CommandFailed, wait_for
from dataplane.lab.steady import Steady
from tests.netns.life.systemd_node import SystemdNode, installed

pytestmark = pytest.mark.long


@pytest.fixture
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(tmp_path_factory)


ways: dict[str, Callable[[SystemdNode], object]] = {
    "restart": lambda service: service.systemctl("restart", "dataplane"),
    "reload": lambda service: service.systemctl("reload", "dataplane"),
    "kill": lambda service: service.kill(),
}


@pytest.mark.parametrize("backend", ["udp", "vxlan"])
@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_is_lost(command: Path, backend: str, workers: int) -> None:
    with Lab(net_conf(backend, ipv6=True), options=(f"--workers={workers}",)) as lab:
        service = SystemdNode(lab, command)
        try:
            service.wait_other(0)
            other = lab.add("dataplane")
            for daemon in lab.daemons[1:]:
                daemon.start_daemon()
                daemon.wait_ready()
            for node in (service.node, other):
                node.add_pod()
            lab.wait_converged()
            device = (service.node.status() or {})["devices"][0]
            for name, restart in ways.items():
                for version in (4, 6):
                    started = service.started()
                    with Steady(*lab.pods, version) as steady:
                        restart(service)
                        service.wait_other(started)
                        seen = steady.stop()
                    lost = (seen.lost, seen.reordered, seen.tcp_broken, seen.tcp_missing)
                    assert lost == ((), 0, "", 0), f"{name}: {seen}\n{lab.logs()}"
            assert (service.node.status() or {})["devices"][0]["index"] == device["index"]
            assert service.systemctl("show", "-P", "NFileDescriptorStore", "dataplane") != "0"
            ends = service.node.log().count("stopped; the lease stays")
            service.systemctl("stop", "dataplane")
            assert service.node.log().count("stopped; the lease stays") == ends + 1
            assert service.node.status() is None
            assert device["name"] in service.node.run("ip", "-o", "link").stdout
        finally:
            service.close()


def test_a_service_that_does_not_come_up_again_is_carried_for(command: Path) -> None:
    with Lab(net_conf("vxlan")) as lab:
        service = SystemdNode(lab, command)
        try:
            service.wait_other(0)
            service.node.add_pod()
            lab.start("dataplane")
            started = service.started()
            right = service.settings.read_text()
            with Steady(*lab.pods) as steady:
                bad = service.node.directory / "bad.json"
                bad.write_text('{"Network": "nonsense"}')
                service.settings.write_text(right + f"FLANNELD_NET_CONFIG_PATH={bad}\n")
                with pytest.raises(CommandFailed):
                    service.systemctl("restart", "dataplane")
                assert lab.pods[0].ping(lab.pods[1]).ok
                service.settings.write_text(right)
                service.systemctl("restart", "dataplane")
                service.wait_other(started)
                seen = steady.stop()
            assert (seen.lost, seen.reordered, seen.tcp_broken) == ((), 0, ""), f"{seen}\n{lab.logs()}"
            log = service.node.log()
            assert "carries until the next has taken over" in log and f"{bad}" in log, log
            wait_for(lambda: "-restart-" not in service.systemctl("list-units", "--plain"), 60, "the bridge to end")
        finally:
            service.close()


def test_with_other_workers(command: Path) -> None:
    """Sockets that systemd keeps are in nobody's way, and none of them takes a share of what comes."""
    with Lab(net_conf("vxlan"), options=("--workers=2",)) as lab:
        service = SystemdNode(lab, command)
        try:
            service.wait_other(0)
            service.node.add_pod()
            lab.start("dataplane")
            with Steady(*lab.pods) as steady:
                for workers in (1, 3):
                    started = service.started()
                    text = service.settings.read_text()
                    service.settings.write_text(f"{text}FLANNELD_WORKERS={workers}\n")
                    service.systemctl("restart", "dataplane")
                    service.wait_other(started)
                    lab.wait_converged()
                    assert lab.pods[0].ping(lab.pods[1], count=20).ok
                seen = steady.stop()
            assert (seen.tcp_broken, seen.tcp_missing) == ("", 0), f"{seen}\n{lab.logs()}"
            assert (service.node.status() or {})["devices"][0]["workers"] == 3
            kept = int(service.systemctl("show", "-P", "NFileDescriptorStore", "dataplane"))
            assert kept == 3 * (tun_queues + receive_queues) + vxlan_sources
        finally:
            service.close()
