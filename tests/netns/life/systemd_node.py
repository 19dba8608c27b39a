"""A node of the lab with a real systemd, whose service is the unit of deploy/, from an installation of its own.

systemd has its own mount, PID and cgroup namespaces and the node's network. What must stay true: the unit is that of deploy/ but
for where the command, the settings and the log are, and but for what would hide this very checkout from it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from dataplane.lab.cluster import Lab
from dataplane.lab.commands import LabError, run, wait_for
from dataplane.lab.node import DaemonNode
from tests import root

unit = root / "deploy/systemd/dataplane.service"
_boot = """set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/systemd
mount -t tmpfs -o mode=755 tmpfs /run/systemd
mkdir -p /run/systemd/system
exec env -i container=lab SYSTEMD_UNIT_PATH="$1" PATH="$PATH" /lib/systemd/systemd --system --unit=lab.target \
    --show-status=no --log-target=console
"""
_hides_the_checkout = r"(?m)^(PrivateTmp|ProtectHome)=.*\n"


def installed(places: pytest.TempPathFactory) -> Path:
    """Return the command of this checkout installed as a user would have it; each test process installs it once."""
    place = places.getbasetemp() / "installed"
    return place / "dataplane" if (place / "dataplane").exists() else _install(place)


def _install(directory: Path) -> Path:
    package = directory / "package"
    words = ["-q", "--no-build-isolation", "--no-deps", "--no-index", f"-Cbuild-dir={directory / 'build'}"]
    run(None, sys.executable, "-m", "pip", "install", *words, "--target", str(package), str(root), timeout=300)
    command = directory / "dataplane"
    # -S: or an editable installation would come first.
    command.write_text(
        f"#!{sys.executable} -S\nimport sys\n"
        f"sys.path[1:1] = [{str(package)!r}, {sysconfig.get_path('purelib')!r}]\n"
        "from dataplane.cli import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    return command


class SystemdNode:
    """One node of a lab under systemd; the node itself is `node`, whose daemon this starts, by the lines of `settings`."""

    def __init__(self, lab: Lab, command: Path) -> None:
        node = lab.add("dataplane")
        assert isinstance(node, DaemonNode)
        self.node = node
        units = node.directory / "units"
        units.mkdir()
        for name in ("sysinit", "basic", "shutdown", "network-online"):
            (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        (units / "lab.target").write_text("[Unit]\nDefaultDependencies=no\nWants=dataplane.service\n")
        self.settings = settings = node.directory / "settings"
        settings.write_text("".join(f"{name}={value}\n" for name, value in node.settings().items()))
        text = re.sub(_hides_the_checkout, "", unit.read_text())
        text = text.replace("/opt/dataplane/bin/dataplane", str(command)).replace(
            "/etc/default/dataplane", str(settings)
        )
        text = text.replace("[Service]\n", f"[Service]\nStandardError=append:{node.log_path}\n")
        (units / "dataplane.service").write_text(text)
        with (node.directory / "systemd.log").open("ab") as log:
            words = ("unshare", "--pid", "--fork", "--mount", "--cgroup", "--kill-child", "sh", "-c", _boot, "boot")
            self._unshare = node.start(*words, str(units), output=log)

    def close(self) -> None:
        """End systemd and all that it runs."""
        self._unshare.kill()
        self._unshare.wait()

    def systemctl(self, *words: str) -> str:
        """Run systemctl there; returns what it prints."""
        return run(
            None, "nsenter", "-t", self._first(), "-m", "-p", "-C", "systemctl", *words, timeout=120
        ).stdout.strip()

    def kill(self) -> None:
        """End the daemon with SIGKILL."""
        pid = self.systemctl("show", "-P", "MainPID", "dataplane")
        run(None, "nsenter", "-t", self._first(), "-m", "-p", "kill", "-9", pid)

    def started(self) -> float:
        """When the daemon that runs began, as Unix time."""
        return float(wait_for(self.node.status, 30, "the status")["started"])

    def wait_other(self, started: float) -> None:
        """Wait until a daemon that began after `started` is ready."""

        def is_ready() -> bool:
            status = self.node.status()
            return status is not None and status["started"] > started and status["ready"]

        try:
            wait_for(is_ready, 60, "the service to be ready")
        except LabError as error:
            text = (self.node.directory / "systemd.log").read_text(errors="replace")
            raise LabError(f"{error}\n{text[-2000:]}\n{self.node.log()[-4000:]}") from None

    def _first(self) -> str:
        done = subprocess.run(["pgrep", "-P", str(self._unshare.pid)], capture_output=True, text=True, check=True)
        return done.stdout.split()[0]
