"""`dataplane doctor`: its words and exit codes, at every width, and what may be copied from it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dataplane.cli.doctor import report
from dataplane.doctor.finding import fail, ok, warn

command = """iptables -D INPUT -p udp -m multiport --dports 53,8472 -m comment --comment "no  tunnels from anywhere" -j REJECT"""
findings = [
    ok("tun", "/dev/net/tun can be opened"),
    warn("daemon", "text of a peer \x1b[2J with a control character", "systemctl start dataplane"),
    fail("firewall", "a long sentence " * 20, command),
]


def words_of(text: str) -> list[str]:
    """What a shell gives to iptables."""
    script = f"iptables() {{ printf '%s\\n' \"$@\"; }}\n{text}"
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_report_fits_and_its_commands_can_be_copied(width: int) -> None:
    lines = list(report(findings, width, coloured=False))
    assert lines[-1] == "1 OK, 1 WARN, 1 FAIL"
    assert all(len(line) <= width and line == line.rstrip() and line.isprintable() for line in lines)
    start = [number for number, line in enumerate(lines) if line.startswith("      mend:")][1]
    copied = "\n".join((lines[start].removeprefix("      mend:"), *lines[start + 1 : -1]))
    assert words_of(copied) == words_of(command)
    assert "no  tunnels from anywhere" in words_of(copied)


def test_colour_is_only_around_the_level() -> None:
    plain, coloured = (list(report(findings, 80, coloured)) for coloured in (False, True))
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured] == plain
    assert coloured[0].startswith("\x1b[32mOK")


def test_wrong_usage_and_help() -> None:
    words = [sys.executable, "-m", "dataplane", "doctor"]
    wrong = subprocess.run([*words, "--colour"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    told = subprocess.run([*words, "--help"], capture_output=True, text=True, check=False)
    assert told.returncode == 0
    assert "Exit code: 0 all OK or WARN, 1 any FAIL, 2 wrong usage." in " ".join(told.stdout.split())


def test_without_a_daemon_it_examines_all_the_same(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "dataplane", "doctor", "--json", f"--run-dir={tmp_path / 'none'}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert "no daemon is running here" in next(row["text"] for row in found if row["check"] == "daemon")
    assert {row["check"] for row in found} >= {"tun", "rights", "port", "firewall", "mtu", "kernel", "versions"}
