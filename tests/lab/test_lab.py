"""The lab itself: kernel nodes reach each other, and nothing is left behind however a run ends."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dataplane.errors import HostError
from dataplane.lab import enclosure
from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import CommandFailed, LabError, run, wait_for
from dataplane.lab.traffic import ping, read_ping
from tests import root
from tests.lab_fixtures import MakeLab

enclosed = [sys.executable, "-m", "dataplane.lab.enclosure", "--"]
# Builds a lab with a ping going on, says so, and stays. The word "hold-the-lab" finds its processes.
holding = """
import signal, sys
from dataplane.lab.cluster import Lab, net_conf
from tests.traffic import LongPing
with Lab(net_conf("vxlan")) as lab:
    lab.start("kernel", "kernel")
    ping = LongPing(lab.pods[0].name, lab.pods[1].address)
    print("up", flush=True)
    signal.pause()
"""
hold = [*enclosed, sys.executable, "-c", holding, "hold-the-lab"]


@contextmanager
def held(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run the command until it has said "up"; it is killed at the end if it is still there."""
    outer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root)
    try:
        assert outer.stdout is not None and outer.stdout.readline() == "up\n"
        yield outer
    finally:
        outer.kill()
        outer.wait()


def processes() -> dict[int, str]:
    """All processes that we see, with their command lines; nested PID namespaces are within our sight."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
    return found


def net_namespaces() -> set[str]:
    """The network namespaces that some process within our sight keeps alive."""
    return {line.split()[0] for line in run(None, "lsns", "-n", "-t", "net", "-o", "NS").stdout.splitlines()}


def assert_nothing_left(pids_before: dict[int, str], nets_before: set[str]) -> None:
    # Dying is the kernel's work and takes it a moment.
    wait_for(
        lambda: processes().keys() <= pids_before.keys() | {os.getpid()}, 90, "all processes of the run to be gone"
    )
    assert net_namespaces() <= nets_before
    assert run(None, "ip", "netns", "list").stdout == ""


def test_we_are_inside_and_there_is_no_way_out() -> None:
    assert enclosure.inside()
    links = {line.split()[0].partition("@")[0] for line in run(None, "ip", "-br", "link").stdout.splitlines()}
    assert links == {"lo"}
    assert run(None, "ip", "route", "show", "table", "all", "type", "unicast").stdout == ""


@pytest.mark.parametrize("version", [4, 6])
def test_kernel_nodes_reach_each_other(make_lab: MakeLab, version: int) -> None:
    lab = make_lab("vxlan", "kernel", "kernel", "kernel")
    for one in lab.pods:
        for other in lab.pods:
            assert one.ping(other, version).ok
    data = lab.pods[0].iperf3(lab.pods[2], version, amount=20 << 20)
    assert data.gbps > 0.01


def test_a_kernel_node_is_set_up_as_flannel_does(make_lab: MakeLab) -> None:
    lab = make_lab("vxlan", "kernel", "kernel")
    one, other = lab.nodes
    assert one.net is not None and other.net is not None and other.net.ipv4 is not None
    shown = one.run("ip", "-d", "link", "show", "flannel.1").stdout
    assert (
        "vxlan id 1 local 192.0.2.1 dev eth0 srcport 0 0 dstport 8472 nolearning ttl auto ageing 300 udpcsum "
        "noudp6zerocsumtx noudp6zerocsumrx" in shown
    )
    assert "mtu 1450" in shown
    base = other.net.ipv4[0]
    assert f"{other.net.ipv4} via {base} dev flannel.1 onlink" in one.run("ip", "route").stdout
    assert re.search(rf"{base} lladdr \S+ PERMANENT", one.run("ip", "neigh", "show", "dev", "flannel.1").stdout)
    assert "dst 192.0.2.2 self permanent" in one.run("bridge", "fdb", "show", "dev", "flannel.1").stdout


def test_closing_a_lab_removes_everything() -> None:
    pids, nets = processes(), net_namespaces()
    with Lab(net_conf("vxlan", ipv6=True)) as lab:
        lab.start("kernel", "kernel", pods=2)
        assert len(run(None, "ip", "netns", "list").stdout.splitlines()) == 6
    assert_nothing_left(pids, nets)
    test_we_are_inside_and_there_is_no_way_out()


def test_an_error_inside_removes_everything() -> None:
    pids, nets = processes(), net_namespaces()
    with pytest.raises(LabError, match="in vain for water"), Lab(net_conf("vxlan")) as lab:
        lab.start("kernel", "kernel")
        wait_for(lambda: False, 0.01, "water")
    assert_nothing_left(pids, nets)


@pytest.mark.parametrize(
    ("number", "code"),
    # The program that holds the lab ends with 1 or 130 on KeyboardInterrupt: Python chooses when it is interrupted.
    [(signal.SIGKILL, {-9}), (signal.SIGTERM, {143}), (signal.SIGHUP, {129}), (signal.SIGINT, {1, 130})],
)
def test_a_signal_to_the_outer_process_ends_everything(number: signal.Signals, code: set[int]) -> None:
    pids, nets = processes(), net_namespaces()
    with held(hold) as outer:
        assert sum("hold-the-lab" in line for line in processes().values()) >= 3
        wait_for(lambda: any(line.startswith("ping ") for line in processes().values()), 90, "the ping to run")
        outer.send_signal(number)
        assert outer.wait(timeout=200) in code
        assert_nothing_left(pids, nets)


def test_killing_unshare_ends_everything() -> None:
    pids, nets = processes(), net_namespaces()
    with held(hold) as outer:
        (unshare,) = (
            pid for pid, line in processes().items() if line.startswith("unshare ") and "hold-the-lab" in line
        )
        os.kill(unshare, signal.SIGKILL)
        assert outer.wait(timeout=200) == 137
        assert_nothing_left(pids, nets)


def test_what_does_not_end_when_asked_is_killed() -> None:
    pids, nets = processes(), net_namespaces()
    with held([*enclosed, "sh", "-c", 'trap "" INT TERM; echo up; sleep 1000']) as outer:
        outer.send_signal(signal.SIGTERM)
        assert outer.wait(timeout=200) == 143
        assert_nothing_left(pids, nets)


@pytest.mark.parametrize("moment", ["building", "TCP for"])
def test_ctrl_c_on_a_terminal_ends_the_demo(moment: str) -> None:
    pids, nets = processes(), net_namespaces()
    # A terminal of its own, whose Ctrl-C reaches the whole foreground group, as a person's does.
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(root)
        # A demo that is started inside an enclosure would use that one.
        os.environ.pop(enclosure.marker)
        os.execv(sys.executable, [sys.executable, "-m", "dataplane", "demo", "--backend", "vxlan", "--seconds", "60"])  # noqa: S606
    seen = _read_until(terminal, lambda text: moment in text)
    os.write(terminal, b"\x03")
    seen += _read_until(terminal, lambda text: False)
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130, seen
    assert "interrupted" in seen and "Traceback" not in seen
    assert_nothing_left(pids, nets)


def _read_until(terminal: int, enough: Callable[[str], bool]) -> str:
    """Read until the text is enough, or nobody holds the other end any more."""
    text = ""
    while not enough(text):
        try:
            text += os.read(terminal, 4096).decode(errors="replace")
        except OSError:  # EIO: the last process has closed the terminal
            return text
    return text


def test_an_ordinary_user_can_run_the_demo() -> None:
    # Uid 1000 without a single capability, in a user namespace of ours; files and /dev/net/tun are still ours to open.
    user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    assert "CapEff:\t0000000000000000" in run(None, *user, "grep", "CapEff", "/proc/self/status").stdout
    pids, nets = processes(), net_namespaces()
    environment = {name: value for name, value in os.environ.items() if name != enclosure.marker}
    demo = [sys.executable, "-m", "dataplane", "demo", "--backend", "vxlan", "--nodes", "2", "--seconds", "1"]
    done = subprocess.run(
        [*user, *demo], env=environment, cwd=root, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4" in done.stdout and "everything worked" in done.stdout
    assert_nothing_left(pids, nets)


def test_a_refused_enclosure_says_why() -> None:
    script = "echo 0 > /proc/sys/user/max_net_namespaces; exec " + " ".join(enclosed) + " true"
    done = run(None, "unshare", "--user", "--map-root-user", "sh", "-c", script, check=False)
    assert done.returncode == 1
    assert "cannot make the lab's private namespaces: unshare" in done.stderr
    assert "allowed are root" in done.stderr and "Traceback" not in done.stderr


def test_the_demo_says_why_without_tun() -> None:
    script = f"mount -t tmpfs none /dev/net; exec {sys.executable} -m dataplane demo"
    done = run(None, "unshare", "--mount", "sh", "-c", script, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("dataplane demo: cannot open /dev/net/tun: No such file or directory; needed is")


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_the_enclosure_hands_the_exit_code_on(script: str, code: int) -> None:
    assert subprocess.run([*enclosed, "sh", "-c", script], cwd=root, check=False).returncode == code


def test_a_lab_outside_of_an_enclosure_is_refused() -> None:
    script = "from dataplane.lab.cluster import Lab, net_conf; Lab(net_conf('udp'))"
    environment = {**os.environ, enclosure.marker: "mnt:[1]"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "a lab is made only inside an enclosure" in done.stderr


def test_commands_that_fail_say_what_they_answered() -> None:
    with pytest.raises(CommandFailed, match=r'ip link show nosuch: exit code 1: Device "nosuch" does not exist'):
        run(None, "ip", "link", "show", "nosuch")
    with pytest.raises(CommandFailed, match="sleep 5: no end within 0.05 s"):
        run(None, "sleep", "5", timeout=0.05)
    with pytest.raises(LabError, match="ping did not run"):
        read_ping("ping: connect: Network is unreachable")


def test_loss_is_counted() -> None:
    with Lab(net_conf("vxlan")) as lab:
        lab.start("kernel", "kernel")
        one, other = lab.pods
        other.run("ip", "link", "set", "eth0", "down")
        lost = ping(one.name, other.address, count=2, wait_s=0.2)
        assert (lost.sent, lost.received, lost.ok) == (2, 0, False)


def test_no_daemon_without_a_tun_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    with Lab(net_conf("udp")) as lab:
        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(HostError, match="cannot open /dev/net/tun: Permission denied; needed is"):
            lab.add("dataplane")
