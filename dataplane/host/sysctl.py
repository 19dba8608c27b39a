"""Kernel settings under /proc/sys.

Settings are addressed by path, never dotted, so an interface called flannel.1 needs no quoting. What must stay
true: what is already right is not written, since /proc/sys may be read-only.
"""

from __future__ import annotations

from pathlib import Path

from dataplane.errors import HostError

proc_sys = Path("/proc/sys")


def read_sysctl(path: str) -> str:
    """Return a setting's text, e.g. of "net/ipv4/ip_forward"; raises `HostError`."""
    try:
        return (proc_sys / path).read_text().strip()
    except OSError as error:
        raise HostError(f"cannot read {proc_sys / path}: {error.strerror}") from error


def write_sysctl(path: str, value: str | int) -> None:
    """Make sure that a setting has a value; writes only where it differs.

    Args:
        path: below /proc/sys, e.g. "net/ipv4/conf/flannel.1/accept_local".
    Raises:
        HostError: the setting does not exist or cannot be written.
    """
    if read_sysctl(path) == str(value):
        return
    try:
        (proc_sys / path).write_text(str(value))
    except OSError as error:
        raise HostError(f"cannot write {value} to {proc_sys / path}: {error.strerror}") from error
