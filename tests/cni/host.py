"""A host for tests of the CNI plugin: directories, subnet.env, and the installed file run as a runtime runs it.

The delegate is Debian's host-local, which gives addresses and needs no namespace. Where a test needs a delegate of the
specification 1.1.0, which Debian has none of, or one that fails in a certain way, it is a shell script that writes down
what it was given.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataplane.cli.cni_archive import archive

subnet_env = """FLANNEL_NETWORK=10.1.0.0/16
FLANNEL_SUBNET=10.1.17.1/24
FLANNEL_MTU=1472
FLANNEL_IPMASQ=true
"""
debian_plugins = Path("/usr/lib/cni")


@dataclass(frozen=True, slots=True)
class Answer:
    """How the plugin ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def error(self) -> dict[str, Any]:
        """The CNI error on stdout; there must be one, and nothing that is not for the runtime."""
        assert self.status == 1, self
        document: dict[str, Any] = json.loads(self.stdout)
        assert {"cniVersion", "code", "msg"} <= set(document) <= {"cniVersion", "code", "msg", "details"}
        assert "Traceback" not in self.stderr
        return document


class CniHost:
    """Paths below one directory, and the plugin."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin_dir = directory / "bin"
        self.bin_dir.mkdir()
        self.plugin = self.bin_dir / "flannel"
        self.plugin.write_bytes(archive(os.path.realpath(sys.executable)))
        self.plugin.chmod(0o755)
        self.subnet_file = directory / "subnet.env"
        self.subnet_file.write_text(subnet_env)
        self.data_dir = directory / "state"
        self.ipam_dir = directory / "networks"

    def conf(self, version: str = "1.0.0", delegate: str = "host-local", **members: object) -> dict[str, object]:
        """Return a network configuration."""
        return {
            "cniVersion": version,
            "name": "net",
            "type": "flannel",
            "subnetFile": str(self.subnet_file),
            "dataDir": str(self.data_dir),
            "ipam": {"dataDir": str(self.ipam_dir)},
            "delegate": {"type": delegate},
            **members,
        }

    def run(
        self,
        command: str,
        conf: object = None,
        *,
        container: str = "c1",
        interface: str = "eth0",
        text: bytes | None = None,
        **environment: str,
    ) -> Answer:
        """Run the plugin; `text` is its stdin instead of `conf`, variables that are "" are left out."""
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": "/run/netns/none",
            "CNI_IFNAME": interface,
            "CNI_PATH": f"{self.bin_dir}:{debian_plugins}",
            **environment,
        }
        done = subprocess.run(
            [self.plugin],
            input=json.dumps(conf).encode() if text is None else text,
            env={name: value for name, value in variables.items() if value},
            capture_output=True,
            timeout=200,
            check=False,
            preexec_fn=_heed_signals,
        )
        return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())

    def add(self, container: str = "c1", interface: str = "eth0", **members: object) -> str:
        """ADD, which must succeed, and return the address that host-local gave."""
        added = self.run("ADD", self.conf(**members), container=container, interface=interface)  # type: ignore[arg-type]
        assert added.status == 0, added
        return str(json.loads(added.stdout)["ips"][0]["address"]).partition("/")[0]

    def reserved(self, network: str = "net") -> set[str]:
        """The addresses that host-local has given and not got back."""
        return {path.name for path in (self.ipam_dir / network).iterdir() if path.name[0].isdigit()}

    def states(self) -> set[str]:
        """The names of the plugin's state files."""
        return {path.name for path in self.data_dir.iterdir()}

    def script(self, name: str, body: str, versions: str = '"1.0.0","1.1.0"') -> None:
        """Install a delegate that writes what it is given to COMMAND.env and COMMAND.stdin here, and then does `body`."""
        path = self.bin_dir / name
        path.write_text(
            "#!/bin/sh\n"
            f'[ $CNI_COMMAND = VERSION ] && echo \'{{"cniVersion":"1.0.0","supportedVersions":[{versions}]}}\' && exit\n'
            f"cat > {self.directory}/$CNI_COMMAND.stdin\nenv > {self.directory}/$CNI_COMMAND.env\n{body}\n"
        )
        path.chmod(0o755)

    def given(self, command: str) -> dict[str, Any]:
        """What the script got on stdin."""
        document: dict[str, Any] = json.loads((self.directory / f"{command}.stdin").read_text())
        return document


def _heed_signals() -> None:
    """As under a runtime, also where the tests run in a shell's background, which has these ignored."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
