"""Every check, in the order in which they help most.

What must stay true: a check that cannot ask the host is a warning, and the others go on; nothing on the host is changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable

from dataplane.doctor.daemon import check_daemon
from dataplane.doctor.finding import Finding, warn
from dataplane.doctor.firewall import check_firewall
from dataplane.doctor.forwarding import check_forwarding
from dataplane.doctor.kernel import check_kernel
from dataplane.doctor.leftovers import check_leftovers
from dataplane.doctor.mtu import check_mtu
from dataplane.doctor.node import Asked, Node, look
from dataplane.doctor.overlaps import check_routes
from dataplane.doctor.port import check_port
from dataplane.doctor.rights import check_rights, check_tun
from dataplane.doctor.versions import check_tools
from dataplane.errors import DataplaneError
from dataplane.host.netlink import Host

Check = Callable[[Node, Host], list[Finding] | Awaitable[list[Finding]]]
_checks: tuple[tuple[str, Check], ...] = (
    ("tun", lambda node, host: [check_tun()]),
    ("rights", lambda node, host: check_rights()),
    ("port", check_port),
    ("firewall", lambda node, host: check_firewall(node)),
    ("forwarding", lambda node, host: check_forwarding(node)),
    ("mtu", lambda node, host: check_mtu(node)),
    ("cni", check_leftovers),
    ("routes", check_routes),
    ("kernel", check_kernel),
    ("daemon", lambda node, host: check_daemon(node)),
    ("versions", lambda node, host: check_tools(node)),
)


async def examine(asked: Asked) -> list[Finding]:
    """Run every check.

    Raises:
        HostError: the kernel does not even list links and addresses.
    """
    host = Host()
    try:
        node = await look(asked, host)
        findings: list[Finding] = []
        for name, check in _checks:
            try:
                found = check(node, host)
                findings += await found if inspect.isawaitable(found) else found
            except (DataplaneError, OSError) as error:
                findings.append(warn(name, f"could not be looked at: {error}", "sudo dataplane doctor"))
        return findings
    finally:
        await host.close()
