"""subnet.env: what the CNI plugin and Docker read of our lease, and what we remember of an earlier life.

What must stay true: a reader sees the old file or the whole new one, never half, and can always read it (0644
whatever the umask). Reading back never fails over content: a line that cannot be used counts as not there.

Source: flannel pkg/subnet/subnet.go (WriteSubnetFile, ReadCIDRFromSubnetFile); flannel.md section 7.3.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TypeVar

from dataplane.errors import BadInput, HostError
from dataplane.flannel import gotext

Network = TypeVar("Network", IPv4Network, IPv6Network)


@dataclass(frozen=True, slots=True)
class SubnetEnv:
    """The file's content. `subnet` and `ipv6_subnet` are the leased networks; the file names their first host.

    Attributes:
        network, ipv6_network: whole overlay, None where the family is off.
        mtu: bytes; 0 when a file read does not say.
        ip_masq: whether the daemon masquerades (so that the CNI plugin must not).
    """

    network: IPv4Network | None = None
    subnet: IPv4Network | None = None
    ipv6_network: IPv6Network | None = None
    ipv6_subnet: IPv6Network | None = None
    mtu: int = 0
    ip_masq: bool = False


def write(path: Path, env: SubnetEnv) -> None:
    """Put the file in place, atomically; missing directories are made with mode 0755.

    Raises:
        HostError: the file system refused.
    """
    try:
        _make_directories(path.parent)
        _replace(path, _format(env))
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def remove(path: Path) -> None:
    """Remove the file, if it is there; raises `HostError`."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(f"cannot remove {path}: {error.strerror}") from error


def stands(path: Path, env: SubnetEnv) -> bool:
    """Say whether the file is there for everybody to read, with exactly what `write` would put into it."""
    text = _format(env).encode()
    try:
        # O_NONBLOCK: a pipe in its place must not hold us up.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            return (
                stat.S_ISREG(status.st_mode)
                and bool(status.st_mode & stat.S_IROTH)
                and file.read(len(text) + 1) == text
            )
    except OSError:
        return False


def check(path: Path) -> None:
    """Raise `HostError` if `write` could not put the file in place; leaves its directories, not the file."""
    try:
        _make_directories(path.parent)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def read(path: Path) -> SubnetEnv:
    """Return what the file says; a missing file, and whatever cannot be used in it, counts as not said.

    Raises:
        HostError: the file is there but cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return SubnetEnv()
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
    values = _variables(text)
    mtu = values.get("FLANNEL_MTU", "")
    return SubnetEnv(
        network=_only(values.get("FLANNEL_NETWORK", ""), gotext.ipv4_network),
        subnet=_only(values.get("FLANNEL_SUBNET", ""), gotext.ipv4_network),
        ipv6_network=_only(values.get("FLANNEL_IPV6_NETWORK", ""), gotext.ipv6_network),
        ipv6_subnet=_only(values.get("FLANNEL_IPV6_SUBNET", ""), gotext.ipv6_network),
        mtu=int(mtu) if mtu.isascii() and mtu.isdigit() and len(mtu) < 10 else 0,
        ip_masq=values.get("FLANNEL_IPMASQ") == "true",
    )


def _format(env: SubnetEnv) -> str:
    lines = []
    for family, network, subnet in (("", env.network, env.subnet), ("IPV6_", env.ipv6_network, env.ipv6_subnet)):
        if network is not None and subnet is not None:
            lines.append(f"FLANNEL_{family}NETWORK={network}")
            lines.append(f"FLANNEL_{family}SUBNET={subnet.network_address + 1}/{subnet.prefixlen}")
    lines.append(f"FLANNEL_MTU={env.mtu}")
    lines.append(f"FLANNEL_IPMASQ={'true' if env.ip_masq else 'false'}")
    return "".join(line + "\n" for line in lines)


def _make_directories(directory: Path) -> None:
    missing = [parent for parent in (directory, *directory.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
        parent.chmod(0o755)  # mkdir's own mode is cut by the umask


def _replace(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)  # the rename itself must survive a power cut
    finally:
        os.close(directory)


def _variables(text: str) -> dict[str, str]:
    """Return NAME=value lines as a dotenv reader does: comments, `export`, quotes; the last of several counts."""
    values = {}
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if not equals or name.startswith("#"):
            continue
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        else:
            value = value.partition(" #")[0].rstrip()
        values[name.strip()] = value
    return values


def _only(text: str, read_network: Callable[[str], Network]) -> Network | None:
    """Return the one usable prefix of a comma list; none and several are both None, as flannel has it."""
    found = []
    for part in text.split(","):
        try:
            found.append(read_network(part.strip()))
        except BadInput:
            continue
    return found[0] if len(found) == 1 else None
