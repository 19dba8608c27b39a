"""Every call that the daemon makes of the host fails once, and some times in a row: it lives on, and all stands again."""

from __future__ import annotations

import json
import sys

import pytest

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from tests import environment

pytestmark = pytest.mark.long

limit_s = 500.0  # on a machine that is very busy; half a minute else
modes = {
    "udp": ("udp", "userspace"),
    "vxlan": ("vxlan", "userspace"),
    "kernel": ("vxlan", "auto"),
    "host-gw": ("host-gw", "auto"),
}


@pytest.mark.timeout(limit_s + 60)
@pytest.mark.parametrize("mode", modes)
def test_no_call_of_the_host_that_fails_for_a_while_ends_the_daemon(mode: str) -> None:
    backend, datapath = modes[mode]
    conf = net_conf(backend, ipv6=True) | {"EnableNFTables": True}
    with Lab(conf, options=(f"--datapath={datapath}",)) as lab:
        faulty, plain = (lab.add("dataplane") for _ in range(2))
        assert isinstance(faulty, DaemonNode) and isinstance(plain, DaemonNode)
        report = lab.directory / "report.json"
        words = (
            "env",
            f"PYTHONPATH={environment()['PYTHONPATH']}",
            sys.executable,
            "-m",
            "tests.netns.life.faulty_daemon",
        )
        faulty.wrapper = (*words, str(report))
        plain.start_daemon()
        plain.wait_ready()
        faulty.start_daemon()
        process = faulty.process
        assert process is not None
        wait_for(lambda: report.exists() or process.poll() is not None, limit_s, "the campaign's end")
        print(faulty.log())
        found = json.loads(report.read_text())
        print(json.dumps(found, indent=1))
        assert found["failures"] == []
        for phase in found["phases"].values():
            # Some calls are made at a start now and then, as the tasks' turns have it.
            assert len(phase["missed"]) < phase["sites"] / 2
        for node in lab.nodes:
            node.add_pod()
        lab.wait_converged()
        for version in (4, 6):
            for one, other in (lab.pods, lab.pods[::-1]):
                wait_for(lambda o=one, p=other, v=version: o.ping(p, v, count=1, wait_s=0.3).ok, 90, "the pods")
