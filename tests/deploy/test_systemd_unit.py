"""deploy/systemd/dataplane.service: systemd knows every setting, and the command line and settings are the daemon's."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from dataplane.cli import flags
from tests.deploy.rendering import options, root

unit = root / "deploy/systemd/dataplane.service"


def settings(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """Verified with the command in the place where it is here: systemd looks whether it can be run."""
    there = tmp_path / unit.name
    there.write_text(unit.read_text().replace("/opt/dataplane/bin/", f"{Path(sys.executable).parent}/"))
    words = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(there)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_daemon_knows_the_command_line() -> None:
    (line,) = settings("ExecStart")
    command, run, *words = shlex.split(line)
    assert Path(command).name == "dataplane" and run == "run"
    assert options({"args": words, "env": []}).warnings == ()


def test_named_variables_are_flags() -> None:
    variables = {flag.variable for flag in flags.flags}
    named = set(re.findall(r"FLANNELD_[A-Z_0-9]+", unit.read_text()))
    assert named and named <= variables


def test_what_the_daemon_writes_is_writable() -> None:
    defaults = {flag.name: flag.default for flag in flags.flags}
    assert settings("ProtectSystem") == ["strict"] and settings("ReadWritePaths") == ["/run"]
    (runtime,) = settings("RuntimeDirectory")
    (state,) = settings("StateDirectory")
    made = {*(f"/run/{name}" for name in runtime.split()), f"/var/lib/{state}"}
    assert made == {str(defaults["run-dir"]), str(defaults["subnet-file"].parent), str(defaults["lease-dir"])}
