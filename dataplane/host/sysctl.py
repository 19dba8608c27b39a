"""Kernel settings under /proc/sys, and those that a TUN of ours needs.

Settings are addressed by path, never dotted, so an interface called flannel.1 needs no quoting. What must stay
true: nothing outside our own device is changed here.
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
    """Make sure that a setting has a value; writes only where it differs, so that a read-only /proc/sys that is
    already right is no failure.

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


def prepare_tun(name: str) -> list[str]:
    """Set what a TUN that carries our ICMP errors needs, before the link goes up.

    - accept_local: the ICMP errors that the core makes have our own tunnel address as their source;
    - rp_filter: off. The kernel uses the larger of the device's and conf/all, so where all is 1 (strict) the
      device gets 2 (loose), the only value that wins over it;
    - send_redirects off, accept_ra off: there is no neighbour on this link to speak of or listen to;
    - addr_gen_mode 1 (none): no IPv6 link-local address, which would only send multicast into the overlay.

    Returns:
        What could not be set and why (no IPv6, read-only /proc/sys), one sentence each. None of it is fatal.
    """
    warnings: list[str] = []
    device4, device6 = f"net/ipv4/conf/{name}", f"net/ipv6/conf/{name}"
    settings = [
        (f"{device4}/accept_local", 1),
        (f"{device4}/rp_filter", _rp_filter()),
        (f"{device4}/send_redirects", 0),
        (f"{device6}/accept_ra", 0),
        (f"{device6}/addr_gen_mode", 1),
    ]
    for path, value in settings:
        try:
            write_sysctl(path, value)
        except HostError as error:
            warnings.append(str(error))
    return warnings


def _rp_filter() -> int:
    try:
        return 2 if read_sysctl("net/ipv4/conf/all/rp_filter") == "1" else 0
    except HostError:
        return 0
