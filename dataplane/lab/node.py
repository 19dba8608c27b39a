"""A node of the lab that runs our daemon, and what all kinds of nodes share.

The daemon is run as the public command with the public flags, and asked over its public status socket. What must stay
true: a node has ended its processes before its namespace goes.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from dataplane.errors import HostError
from dataplane.lab.commands import LabError, wait_for
from dataplane.lab.topology import Place, Pod, PodNet, Underlay, add_cni0, underlay_address, underlay_address6

healthz_port = 10254
start_limit_s = 60.0


class Node(Place, ABC):
    """A namespace with eth0 on the underlay, forwarding switched on, and pods behind cni0."""

    kind: str

    def __init__(self, underlay: Underlay, number: int, directory: Path, mtu: int = 1500) -> None:
        super().__init__(f"{underlay.prefix}-node{number}", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        self.number = number
        self.label = f"node{number}"
        self.directory = directory / self.label
        self.directory.mkdir(parents=True)
        self.address = underlay_address(number)
        self.address6 = underlay_address6(number)
        self.pods: list[Pod] = []
        self.net: PodNet | None = None
        self._underlay = underlay
        underlay.attach(self, number, mtu)

    @abstractmethod
    def pod_net(self) -> PodNet:
        """Return the node's share of the overlay; raises `LabError` if it has none (in time)."""

    @abstractmethod
    def knows(self, other: Node) -> bool:
        """Say whether packets for `other`'s pods would be carried there."""

    def add_pod(self) -> Pod:
        """Add a pod; with the first one comes cni0."""
        if self.net is None:
            self.net = self.pod_net()
            add_cni0(self, self.net)
        pod = Pod(self, self.net, len(self.pods))
        self.pods.append(pod)
        return pod

    def log(self) -> str:
        """Return what the node's daemon has written."""
        return ""

    def close(self) -> None:
        """Take the node away with its pods."""
        for pod in self.pods:
            pod.close()
        self._underlay.detach(self.number)
        super().close()


class DaemonNode(Node):
    """A node on which `dataplane run` does the work.

    Args:
        lease_dir, net_conf_path: shared by all nodes of the lab.
        options: more flags for the daemon.
        environment: more variables for it.

    Attributes:
        wrapper: words before the daemon's command: what takes rights away from it.
        python: that runs the daemon; another installation's runs that one's.
        program: what it is given to run.
    """

    kind = "dataplane"

    def __init__(
        self,
        underlay: Underlay,
        number: int,
        directory: Path,
        lease_dir: Path,
        net_conf_path: Path,
        *,
        mtu: int = 1500,
        options: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        check_tun()
        super().__init__(underlay, number, directory, mtu)
        self.run_dir = self.directory / "run"
        self.subnet_file = self.directory / "subnet.env"
        self.log_path = self.directory / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.wrapper: tuple[str, ...] = ()
        self.python = sys.executable
        self.program: tuple[str, ...] = ("-m", "dataplane")
        self._flags = (
            "--iface=eth0",
            f"--lease-dir={lease_dir}",
            f"--run-dir={self.run_dir}",
            f"--subnet-file={self.subnet_file}",
            f"--net-config-path={net_conf_path}",
            "--datapath=userspace",
            f"--healthz-port={healthz_port}",
            *options,
        )
        self._environment = dict(environment or {})
        self._started = 0.0

    def settings(self) -> dict[str, str]:
        """The daemon's flags as environment variables, for whoever starts it otherwise."""
        pairs = (flag.removeprefix("--").partition("=") for flag in self._flags)
        return {f"FLANNELD_{name.upper().replace('-', '_')}": value for name, _, value in pairs}

    def start_daemon(self, *options: str, environment: Mapping[str, str] | None = None) -> None:
        """Start the daemon, with more flags and variables for this time; `wait_ready` waits for it."""
        if self.process is not None and self.process.poll() is None:
            raise LabError(f"the daemon of {self.label} runs already")
        self._started = time.time()
        variables = [f"{name}={value}" for name, value in (self._environment | dict(environment or {})).items()]
        words = (*(("env", *variables) if variables else ()), self.python, *self.program, "run")
        with self.log_path.open("ab") as log:
            self.process = self.start(*self.wrapper, *words, *self._flags, *options, output=log)

    def stop_daemon(self, timeout: float = 10.0) -> int:
        """Ask the daemon to end (SIGTERM) and return its exit code; raises `LabError` if it does not end in time."""
        process = self._running()
        process.terminate()
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise LabError(f"the daemon of {self.label} did not end within {timeout:g} s of SIGTERM") from None

    def kill_daemon(self) -> None:
        """End the daemon with SIGKILL."""
        process = self._running()
        process.send_signal(signal.SIGKILL)
        process.wait()

    def wait_ready(self, timeout: float = start_limit_s) -> None:
        """Wait until the daemon says that it is ready; raises `LabError` with its log if it ends instead."""

        def ready() -> bool:
            process = self._running()
            if process.poll() is not None:
                raise LabError(f"the daemon of {self.label} ended with {process.returncode}:\n{self.log()}")
            return bool((self.status() or {}).get("ready"))

        try:
            wait_for(ready, timeout, f"the daemon of {self.label} to be ready")
        except LabError as error:
            raise LabError(f"{error}\nits log:\n{self.log()}" if "its log" not in str(error) else str(error)) from None

    def status(self) -> dict[str, Any] | None:
        """Return the daemon's status document, None while it does not answer."""
        connection = http.client.HTTPConnection("localhost", timeout=5)
        try:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(5)
            connection.sock.connect(str(self.run_dir / "status.sock"))
            connection.request("GET", "/status")
            document: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException):
            return None
        else:
            return document
        finally:
            connection.close()

    def drops(self) -> dict[str, int]:
        """Return the daemon's drop counters that are not 0."""
        return {reason: count for reason, count in ((self.status() or {}).get("drops") or {}).items() if count}

    def pod_net(self) -> PodNet:
        """Read subnet.env, as the CNI plugin does."""
        try:
            lines = self.subnet_file.read_text().splitlines()
        except OSError as error:
            raise LabError(f"{self.label}: {error}") from error
        values = dict(line.split("=", 1) for line in lines)
        ipv4, ipv6 = values.get("FLANNEL_SUBNET"), values.get("FLANNEL_IPV6_SUBNET")
        return PodNet(
            int(values["FLANNEL_MTU"]),
            None if ipv4 is None else IPv4Network(ipv4, strict=False),
            None if ipv6 is None else IPv6Network(ipv6, strict=False),
        )

    def knows(self, other: Node) -> bool:
        """Say whether the status lists all of `other`'s subnets."""
        net = other.net
        listed = {peer["subnet"] for peer in (self.status() or {}).get("peers", ())}
        return net is not None and {str(subnet) for subnet in (net.ipv4, net.ipv6) if subnet is not None} <= listed

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        super().close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise LabError(f"the daemon of {self.label} was never started")
        return self.process


def check_tun() -> None:
    """Raise `HostError` with the reason if this process cannot open /dev/net/tun."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        allowed = "needed is the tun module (modprobe tun), and the right to read and write it (mode 0666 is usual)"
        raise HostError(f"cannot open /dev/net/tun: {error.strerror}; {allowed}") from error
