"""Pods made by CNI plugins, as a container runtime makes them: our plugin, then Debian's bridge, host-local and portmap.

What libcni does is done here in small: one network configuration list, its plugins run in order for ADD and CHECK and in
reverse for DEL, each result given to the next, and the last one kept for CHECK and DEL. What must stay true: plugins run
in the node's namespace, and whatever they keep is below the node's directory.

Source: CNI specification 1.1.0, section 3.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataplane.lab.commands import CommandFailed, LabError, inside_of, run
from dataplane.lab.node import DaemonNode
from dataplane.lab.topology import Place, Pod

debian_plugins = Path("/usr/lib/cni")
manifest_conflist: Mapping[str, Any] = {
    "name": "cbr0",
    "cniVersion": "1.0.0",
    "plugins": [
        {"type": "flannel", "delegate": {"hairpinMode": True, "isDefaultGateway": True}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
"""What flannel's manifest has, in a version that has CHECK."""
_limit_s = 200.0
_numbers = itertools.count(1)


def install(bin_dir: Path) -> Path:
    """Put our plugin into a directory with the public command; returns the directory."""
    run(None, sys.executable, "-m", "dataplane", "install-cni", f"--bin-dir={bin_dir}")
    return bin_dir


class CniError(LabError):
    """A plugin answered with an error.

    Attributes:
        code: as the CNI specification has it; 0 where it gave none.
    """

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class CniNetwork:
    """A network configuration list on one node.

    Args:
        node: whose subnet.env the plugin reads, and in whose namespace the plugins run; its daemon is ready.
        bin_dir: where our plugin is, see `install`.
        conflist: the list; only where plugins of type flannel read and write is set to the node's own paths.
    """

    def __init__(self, node: DaemonNode, bin_dir: Path, conflist: Mapping[str, Any] = manifest_conflist) -> None:
        self.node = node
        node.net = node.pod_net()
        self.path = f"{bin_dir}:{debian_plugins}"
        self.data_dir = node.directory / "cni" / "flannel"
        self.ipam_dir = node.directory / "cni" / "networks"
        paths = {"subnetFile": str(node.subnet_file), "dataDir": str(self.data_dir)}
        self.conf = dict(conflist)
        self.conf["plugins"] = [
            {**plugin, **paths, "ipam": {**plugin.get("ipam", {}), "dataDir": str(self.ipam_dir)}}
            if plugin["type"] == "flannel"
            else plugin
            for plugin in conflist["plugins"]
        ]
        self._results: dict[tuple[str, str], dict[str, Any]] = {}

    def add_pod(self, *, port_mappings: Sequence[Mapping[str, Any]] = ()) -> CniPod:
        """Make a namespace and ADD it; the node removes it when it closes."""
        pod = CniPod(self, next(_numbers), {"portMappings": list(port_mappings)} if port_mappings else {})
        self.node.pods.append(pod)
        return pod

    def add(
        self, container: str, netns: str, interface: str = "eth0", capabilities: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run ADD and return the last plugin's result; raises `CniError`, after which the runtime is to DEL."""
        result: dict[str, Any] | None = None
        for plugin in self._plugins(capabilities):
            given = plugin if result is None else {**plugin, "prevResult": result}
            result = json.loads(self.command("ADD", given, container, netns, interface))
        if result is None:
            raise LabError("the network configuration list is empty")
        self._results[container, interface] = result
        return result

    def check(
        self, container: str, netns: str, interface: str = "eth0", capabilities: Mapping[str, Any] | None = None
    ) -> None:
        """Run CHECK; raises `CniError` where something is not as ADD left it."""
        for plugin in self._plugins(capabilities):
            given = {**plugin, "prevResult": self._results[container, interface]}
            self.command("CHECK", given, container, netns, interface)

    def delete(
        self, container: str, netns: str, interface: str = "eth0", capabilities: Mapping[str, Any] | None = None
    ) -> None:
        """Run DEL; raises `CniError`."""
        result = self._results.get((container, interface))
        for plugin in reversed(self._plugins(capabilities)):
            given = plugin if result is None else {**plugin, "prevResult": result}
            self.command("DEL", given, container, netns, interface)
        self._results.pop((container, interface), None)

    def command(
        self, command: str, given: Mapping[str, Any], container: str = "", netns: str = "", interface: str = ""
    ) -> str:
        """Run one plugin, the one of `given`'s type, and return its stdout; raises `CniError`."""
        words, environment = self.invocation(command, str(given["type"]), container, netns, interface)
        try:
            done = subprocess.run(
                words,
                input=json.dumps(given),
                env=environment,
                capture_output=True,
                text=True,
                timeout=_limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"{given['type']} {command}: no end within {_limit_s:g} s") from None
        if done.returncode != 0:
            try:
                code = int(json.loads(done.stdout)["code"])
            except (ValueError, KeyError, TypeError):
                code = 0
            raise CniError(f"{given['type']} {command}: {done.stdout.strip()} {done.stderr.strip()}", code)
        return done.stdout

    def invocation(
        self, command: str, kind: str, container: str = "", netns: str = "", interface: str = ""
    ) -> tuple[list[str], dict[str, str]]:
        """Return the command line and the environment that run a plugin on the node."""
        for directory in self.path.split(":"):
            if (Path(directory) / kind).is_file():
                break
        else:
            raise LabError(f"no CNI plugin {kind} in {self.path} (Debian package containernetworking-plugins)")
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": interface,
            "CNI_PATH": self.path,
            "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin",
        }
        return inside_of(self.node.name, [str(Path(directory) / kind)]), variables

    def plugin(self, index: int = 0, capabilities: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the configuration that the plugin at `index` of the list is given."""
        return self._plugins(capabilities)[index]

    def _plugins(self, capabilities: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        made = []
        for plugin in self.conf["plugins"]:
            wanted = plugin.get("capabilities", {})
            config = {name: value for name, value in (capabilities or {}).items() if wanted.get(name)}
            common = {"name": self.conf["name"], "cniVersion": self.conf["cniVersion"]}
            made.append({**plugin, **common, **({"runtimeConfig": config} if config else {})})
        return made


class CniPod(Pod):
    """A pod whose network the plugins made.

    Attributes:
        container: its id.
        netns: path of its namespace.
        result: of ADD.
    """

    def __init__(self, network: CniNetwork, number: int, capabilities: Mapping[str, Any]) -> None:
        # The namespace alone: what Pod makes by hand, the plugins make here.
        Place.__init__(self, f"{network.node.name}-cni{number}")
        self.network = network
        self.container = f"{network.node.label}-container-{number}"
        self.netns = f"/run/netns/{self.name}"
        self._capabilities = capabilities
        try:
            self.result = network.add(self.container, self.netns, capabilities=capabilities)
        except LabError:
            Place.close(self)
            raise
        addresses = [entry["address"].partition("/")[0] for entry in self.result["ips"]]
        self._attached = True
        self.address = next((address for address in addresses if ":" not in address), "")
        self.address6 = next((address for address in addresses if ":" in address), "")

    def check(self) -> None:
        """Run CHECK; raises `CniError`."""
        self.network.check(self.container, self.netns, capabilities=self._capabilities)

    def delete(self) -> None:
        """Run DEL; raises `CniError`. The namespace stays."""
        self.network.delete(self.container, self.netns, capabilities=self._capabilities)
        self._attached = False

    def close(self) -> None:
        """DEL where that was not done, and delete the namespace."""
        if self._attached:
            self.delete()
        super().close()
