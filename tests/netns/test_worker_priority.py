"""Workers ask for less of nice than the daemon has; where that is refused they carry packets all the same."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from lab_fixtures import MakeLab

from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode

rights = "-all,+net_admin,+net_raw,+bpf"  # the manifest's, without the one in question
nice_field = 19 - 3  # proc_pid_stat(5), counted from what follows the command's name


def nices(node: DaemonNode) -> list[int]:
    """What threads of the daemon have as their nice, ascending."""
    assert node.process is not None
    tasks = Path(f"/proc/{node.process.pid}/task").iterdir()
    return sorted(int((task / "stat").read_text().rpartition(")")[2].split()[nice_field]) for task in tasks)


@pytest.mark.parametrize("granted", [True, False])
def test_workers_have_priority_where_it_is_granted(make_lab: MakeLab, granted: bool) -> None:
    lab = make_lab("vxlan", "dataplane", "dataplane", ipv6=False)
    node = lab.daemons[0]
    node.stop_daemon()
    bounding = f"{rights},+sys_nice" if granted else rights
    node.wrapper = ("setpriv", f"--bounding-set={bounding}", "--inh-caps=-all")
    node.start_daemon()
    node.wait_ready()
    lab.wait_converged()
    # In a user namespace nobody has the right.
    refused = subprocess.run(["nice", "-n", "-10", "true"], capture_output=True, check=True).stderr
    (device,) = (node.status() or {})["devices"]
    hurried = device["workers"] if granted and not refused else 0
    assert device["workers_alive"] == device["workers"]
    wait_for(lambda: nices(node)[:hurried] == [-10] * hurried, 90, f"{hurried} workers with priority")
    assert set(nices(node)[hurried:]) == {0}
    assert lab.pods[0].ping(lab.pods[1]).ok
    assert lab.pods[1].ping(lab.pods[0]).ok
