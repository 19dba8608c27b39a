"""Asks the kernel for all that the choice of the external interface depends on, and chooses."""

from __future__ import annotations

from ipaddress import ip_address

from dataplane.errors import BadInput, HostError
from dataplane.host.interface import ExternalInterface, HostView, InterfaceChoice, select
from dataplane.host.netlink import Host
from dataplane.model import IPAddress


async def choose(host: Host, choice: InterfaceChoice, ipv4: bool, ipv6: bool) -> ExternalInterface:
    """Return the external interface as `select` does.

    Raises:
        BadInput: also where the can-reach address cannot be read.
    """
    target = _reach_target(choice.can_reach)
    reach = None
    if target is not None:
        try:
            reach = await host.route_to(target)
        except HostError:
            reach = None
    view = HostView(
        await host.links(),
        await host.addresses(),
        await host.default_route(4) if ipv4 else None,
        await host.default_route(6) if ipv6 else None,
        reach,
    )
    return select(view, choice, ipv4, ipv6)


def _reach_target(text: str) -> IPAddress | None:
    if not text:
        return None
    try:
        return ip_address(text)
    except ValueError:
        raise BadInput(
            f'--iface-can-reach: {text!r} is no IP address; allowed is one such as "192.0.2.1", no name'
        ) from None
