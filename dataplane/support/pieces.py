"""What goes into the archive: files and commands' output, each by itself.

What must stay true: what cannot be had is named with the reason, and keeps nothing else from being had; each piece is bounded
in time and size, and no secret's file is read.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from dataplane.host.command import find
from dataplane.support.redact import redact

limit_s = 20.0
most_bytes = 4 << 20
_settings = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/*/rp_filter",
    "net/ipv4/conf/*/forwarding",
    "net/ipv6/conf/*/forwarding",
    "net/ipv6/conf/*/disable_ipv6",
    "net/ipv6/conf/*/accept_ra",
    "net/bridge/*",
    "net/core/*mem*",
    "net/core/netdev_*",
    "net/core/bpf_*",
    "net/netfilter/nf_conntrack_max",
    "kernel/unprivileged_bpf_disabled",
    "net/ipv4/neigh/default/gc_thresh*",
    "net/ipv6/neigh/default/gc_thresh*",
)
_files = {
    "host/os-release": "/etc/os-release",
    "host/modules": "/proc/modules",
    "host/memory": "/proc/meminfo",
    "host/processors": "/proc/cpuinfo",
    "host/uptime": "/proc/uptime",
    "counters/snmp": "/proc/net/snmp",
    "counters/snmp6": "/proc/net/snmp6",
    "counters/netstat": "/proc/net/netstat",
    "counters/softnet": "/proc/net/softnet_stat",
    "counters/devices": "/proc/net/dev",
}
_commands = {
    "host/kernel": ("uname", "-a"),
    "host/kernel-log": ("dmesg",),
    "network/links": ("ip", "-d", "-s", "link"),
    "network/addresses": ("ip", "address"),
    "network/routes": ("ip", "route", "show", "table", "all"),
    "network/routes6": ("ip", "-6", "route", "show", "table", "all"),
    "network/rules": ("ip", "rule"),
    "network/rules6": ("ip", "-6", "rule"),
    "network/neighbours": ("ip", "neighbour"),
    "network/fdb": ("bridge", "fdb"),
    "network/queues": ("tc", "-s", "qdisc"),
    "network/sockets": ("ss", "-uapn"),
    "firewall/nft": ("nft", "list", "ruleset"),
    "firewall/iptables": ("iptables-save", "-c"),
    "firewall/ip6tables": ("ip6tables-save", "-c"),
    "firewall/iptables-legacy": ("iptables-legacy-save", "-c"),
    "firewall/ip6tables-legacy": ("ip6tables-legacy-save", "-c"),
    "log": ("journalctl", "--unit=dataplane", "--lines=2000", "--no-pager", "--output=short-iso-precise"),
}


class NotHad(Exception):
    """Why a piece cannot be had."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of the archive.

    Attributes:
        name: where in it.
        text: what it holds, without secrets; "" where it was not had.
        why_not: "" where it was.
    """

    name: str
    text: str
    why_not: str = ""


def pieces(run_dir: Path, pid: int, subnet_file: Path, net_config: Path) -> Iterator[Piece]:
    """Yield every piece.

    Args:
        pid: the daemon's; 0: none runs.
    """
    for name in ("status", "doctor"):
        yield _piece(f"{name}.txt", lambda name=name: _output(_own(name, run_dir)))  # type: ignore[misc]
    yield _piece("status.json", lambda: _output((*_own("status", run_dir), "--json")))
    yield _piece("versions", _versions)
    if pid:
        yield _piece("daemon/command", lambda: _read(f"/proc/{pid}/cmdline").replace("\0", " "))
        yield _piece("daemon/environment", lambda: _environment(pid))
        for name in ("status", "limits", "cgroup"):
            yield _piece(f"daemon/{name}", lambda name=name: _read(f"/proc/{pid}/{name}"))  # type: ignore[misc]
    yield _piece("configuration/net-conf.json", lambda: _read(net_config))
    yield _piece("configuration/subnet.env", lambda: _read(subnet_file))
    yield _piece("configuration/run-dir", lambda: _output(("ls", "-la", str(run_dir))))
    yield _piece("configuration/cni", lambda: _output(("ls", "-la", "/etc/cni/net.d")))
    yield _piece("host/settings", _sysctls)
    for name, path in _files.items():
        yield _piece(name, lambda path=path: _read(path))  # type: ignore[misc]
    for name, words in _commands.items():
        yield _piece(name, lambda words=words: _output(words))  # type: ignore[misc]


def _piece(name: str, make: Callable[[], str]) -> Piece:
    try:
        return Piece(name, redact(make()))
    except NotHad as why:
        return Piece(name, "", redact(str(why)))
    except OSError as error:
        return Piece(name, "", error.strerror or str(error))


def _own(command: str, run_dir: Path) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "dataplane", command, f"--run-dir={run_dir}")


def _output(words: tuple[str, ...]) -> str:
    """Return what a command prints; one that fails and prints something is told with its exit code."""
    path = find(words[0])
    if path is None:
        raise NotHad(f"{words[0]} is not installed")
    try:
        done = subprocess.run(
            (path, *words[1:]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
            env={**os.environ, "LC_ALL": "C", "NO_COLOR": "1"},
        )
    except subprocess.TimeoutExpired:
        raise NotHad(f"{words[0]}: no end within {limit_s:.0f} s") from None
    said = _decode(done.stdout)
    if done.returncode and not said.strip():
        raise NotHad(f"{words[0]} ended with {done.returncode}: {_decode(done.stderr).strip() or 'it said nothing'}")
    return said + (f"(it ended with {done.returncode}: {_decode(done.stderr).strip()})\n" if done.returncode else "")


def _read(path: str | Path) -> str:
    with open(path, "rb") as file:
        return _decode(file.read(most_bytes + 1))


def _decode(data: bytes) -> str:
    text = data[-most_bytes:].decode("utf-8", "replace")  # what is newest is last
    return text if len(data) <= most_bytes else f"(the beginning is left out)\n{text}"


def _environment(pid: int) -> str:
    lines = _read(f"/proc/{pid}/environ").split("\0")
    ours = ("FLANNELD_", "NODE_NAME", "POD_", "KUBERNETES_SERVICE", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
    return "".join(f"{line}\n" for line in lines if line.startswith(ours))


def _sysctls() -> str:
    found = sorted(path for pattern in _settings for path in Path("/proc/sys").glob(pattern) if path.is_file())
    return "".join(f"{path.relative_to('/proc/sys')} = {_setting(path)}\n" for path in found)


def _setting(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        return f"({error.strerror})"


def _versions() -> str:
    packages = sorted({f"{each.metadata['Name']} {each.version}" for each in distributions()}, key=str.lower)
    return "\n".join([f"Python {sys.version}", *packages]) + "\n"
