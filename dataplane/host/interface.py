"""Choose the external interface: the one whose address carries the underlay.

Follows flannel's pkg/ipmatch/match.go and the loop around it in main.go, its error texts included. Pure: `choosing` asks
the kernel. What must stay true: the same links, addresses and routes always give the same
choice, and the choice says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from dataplane.errors import BadInput, HostError, HostFault
from dataplane.host.links import Address, Link
from dataplane.host.routes import Route
from dataplane.model import IPAddress


@dataclass(frozen=True, slots=True)
class InterfaceChoice:
    """What the user said about the interface (flannel's --iface, --iface-regex, --iface-can-reach, --public-ip…).

    `can_reach` "" means not given; regular expressions are Python's and match anywhere.
    """

    iface: tuple[str, ...] = ()
    iface_regex: tuple[str, ...] = ()
    can_reach: str = ""
    public_ip: IPv4Address | None = None
    public_ipv6: IPv6Address | None = None


@dataclass(frozen=True, slots=True)
class ExternalInterface:
    """The chosen interface.

    Attributes:
        name, index, mtu: of the link; mtu in bytes.
        address, address6: its own addresses, to bind to; None where the family is off.
        public_ip, public_ipv6: what peers are told; the own address unless the user gave another.
        reason: one sentence for people: why this interface.
    """

    name: str
    index: int
    mtu: int
    address: IPv4Address | None
    address6: IPv6Address | None
    public_ip: IPv4Address | None
    public_ipv6: IPv6Address | None
    reason: str


@dataclass(frozen=True, slots=True)
class HostView:
    """All that the choice depends on. `reach`: link index and source of the route to `can_reach`; None: no route."""

    links: Sequence[Link]
    addresses: Sequence[Address]
    default4: Route | None = None
    default6: Route | None = None
    reach: tuple[int, IPAddress | None] | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """A link that matched, with the addresses that the match itself fixed."""

    link: Link
    reason: str
    address: IPv4Address | None = None
    address6: IPv6Address | None = None


class _NoMatch(Exception):
    """One criterion led nowhere; the text says why. The next criterion is tried."""


class _NoSuchName(_NoMatch):
    """There is no interface of the name that was given: for a person to mend; all else may come."""


def select(view: HostView, choice: InterfaceChoice, ipv4: bool, ipv6: bool) -> ExternalInterface:
    """Return the external interface for the enabled families (flannel.md section 7.6).

    Raises:
        HostError: nothing matches (yet), or what matches has no usable address or MTU.
        HostFault: only names were given, and no interface has one of them.
        BadInput: a regular expression cannot be read.
    """
    if not (ipv4 or ipv6):
        raise BadInput("none defined stack: EnableIPv4 and EnableIPv6 are both false; allowed: at least one true")
    selector = _Selector(view, choice, ipv4, ipv6)
    if choice.iface or choice.iface_regex or choice.can_reach:
        return selector.first_of_given()
    try:
        if choice.public_ip is not None and ipv4:
            return selector.finish(selector.by_name_or_address(str(choice.public_ip), "--public-ip"))
        if choice.public_ipv6 is not None and ipv6:
            return selector.finish(selector.by_name_or_address(str(choice.public_ipv6), "--public-ipv6"))
        return selector.finish(selector.by_default_route())
    except _NoMatch as error:
        raise HostError(f"Failed to find any valid interface to use: {error}") from error


def usable_addresses(addresses: Sequence[Address], index: int, version: int) -> list[IPAddress]:
    """Addresses of one link that can carry the underlay, best first.

    Global before link-local, permanent before dynamic, lasting before temporary; deprecated, loopback, multicast
    and unspecified ones are left out; otherwise the kernel's order stays.
    """
    candidates = [
        address
        for address in addresses
        if address.index == index and address.interface.version == version and not address.deprecated
    ]
    usable = [address for address in candidates if _is_unicast(address.interface.ip)]
    usable.sort(key=lambda address: (address.interface.ip.is_link_local, not address.permanent, address.temporary))
    return [address.interface.ip for address in usable]


def _is_unicast(ip: IPAddress) -> bool:
    return not (ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip == IPv4Address("255.255.255.255"))


class _Selector:
    """The criteria, each giving a `_Found` or raising `_NoMatch`."""

    def __init__(self, view: HostView, choice: InterfaceChoice, ipv4: bool, ipv6: bool) -> None:
        self.view = view
        self.choice = choice
        self.ipv4 = ipv4
        self.ipv6 = ipv6

    def first_of_given(self) -> ExternalInterface:
        """Try every --iface, then every --iface-regex, then --iface-can-reach; the first that is complete wins."""
        attempts: list[tuple[Callable[[str, str], _Found], str, str]]
        attempts = [(self.by_name_or_address, value, f"--iface={value}") for value in self.choice.iface]
        attempts += [(self.by_regex, value, f"--iface-regex={value}") for value in self.choice.iface_regex]
        if self.choice.can_reach:
            attempts.append((self.by_reach, self.choice.can_reach, f"--iface-can-reach={self.choice.can_reach}"))
        failures = []
        kind: type[HostError] = HostFault
        for criterion, value, flag in attempts:
            try:
                return self.finish(criterion(value, flag))
            except _NoMatch as error:
                failures.append(f"{flag}: {error}")
                kind = kind if isinstance(error, _NoSuchName) else HostError
        raise kind(
            "Failed to find interface to use that matches the interfaces and/or regexes provided: "
            + "; ".join(failures)
        )

    def by_name_or_address(self, value: str, flag: str) -> _Found:
        try:
            ip = ip_address(value)
        except ValueError:
            return self._by_name(value, flag)
        if not (self.ipv4 if ip.version == 4 else self.ipv6):
            raise _NoMatch(f"error looking up interface {value}: IPv{ip.version} is not enabled in the network config")
        link = self._owner(ip)
        if link is None:
            version = "v6 " if ip.version == 6 else ""
            raise _NoMatch(f"error looking up {version}interface {value}: No interface with given IP found")
        reason = f"{link.name} owns {value}, given by {flag.partition('=')[0]}"
        if isinstance(ip, IPv6Address):
            return _Found(link, reason, address6=ip)
        if self.ipv6 and self.choice.public_ipv6 is not None:
            return _Found(link, reason, ip, self._public_ipv6_on(link, self.choice.public_ipv6))
        return _Found(link, reason, address=ip)

    def _public_ipv6_on(self, link: Link, public: IPv6Address) -> IPv6Address:
        """With both families and a given IPv4 address, the public IPv6 address must be on the same link."""
        owner = self._owner(public)
        if owner is None:
            raise _NoMatch(f"error looking up v6 interface {public}: No interface with given IPv6 found")
        if owner.index != link.index:
            raise _NoMatch(f"v6 interface {owner.name} must be the same with v4 interface {link.name}")
        return public

    def _by_name(self, name: str, flag: str) -> _Found:
        for link in self.view.links:
            if link.name == name:
                return _Found(link, f"{name} was named by {flag.partition('=')[0]}")
        raise _NoSuchName(f"error looking up interface {name}: no such network interface")

    def by_regex(self, pattern: str, flag: str) -> _Found:
        try:
            regex = re.compile(pattern)
        except re.error as error:
            raise BadInput(f"could not compile the IP address regex '{pattern}': {error}") from error
        for link in self.view.links:
            matched4, matched6 = self._match(regex, link, 4), self._match(regex, link, 6)
            if (matched4 or not self.ipv4) and (matched6 or not self.ipv6):
                found4 = matched4 if isinstance(matched4, IPv4Address) and self.ipv4 else None
                found6 = matched6 if isinstance(matched6, IPv6Address) and self.ipv6 else None
                return _Found(link, f"an address of {link.name} matches {flag}", found4, found6)
        for link in self.view.links:
            if regex.search(link.name):
                return _Found(link, f"the name {link.name} matches {flag}")
        available = ", ".join(f"{link.name}:[{self._listed(link)}]" for link in self.view.links)
        raise _NoMatch(f"Could not match pattern {pattern} to any of the available network interfaces ({available})")

    def _match(self, regex: re.Pattern[str], link: Link, version: int) -> IPAddress | None:
        return next(
            (ip for ip in usable_addresses(self.view.addresses, link.index, version) if regex.search(str(ip))), None
        )

    def _listed(self, link: Link) -> str:
        return " ".join(str(ip) for ip in usable_addresses(self.view.addresses, link.index, 4 if self.ipv4 else 6))

    def by_reach(self, target: str, flag: str) -> _Found:
        if self.view.reach is None:
            raise _NoMatch(f"failed to get ifcanreach based interface: couldn't lookup route to {target}")
        index, source = self.view.reach
        link = self._link(index)
        return _Found(
            link,
            f"the route to {target} ({flag.partition('=')[0]}) leaves by {link.name}",
            source if isinstance(source, IPv4Address) and self.ipv4 else None,
            source if isinstance(source, IPv6Address) and self.ipv6 else None,
        )

    def by_default_route(self) -> _Found:
        if not self.ipv4:
            link = self._of_default(self.view.default6, "v6 ")
            return _Found(link, f"the first IPv6 default route leaves by {link.name}")
        link = self._of_default(self.view.default4, "")
        if not self.ipv6:
            return _Found(link, f"the first default route leaves by {link.name}")
        link6 = self._of_default(self.view.default6, "v6 ")
        if link6.index != link.index:
            raise _NoMatch(
                f"v6 default route interface {link6.name} must be the same with v4 default route interface {link.name}"
            )
        return _Found(link, f"the first IPv4 and IPv6 default routes leave by {link.name}")

    def _of_default(self, route: Route | None, version: str) -> Link:
        if route is None:
            raise _NoMatch(f"failed to get default {version}interface: Unable to find default {version}route")
        return self._link(route.index)

    def _link(self, index: int) -> Link:
        for link in self.view.links:
            if link.index == index:
                return link
        raise _NoMatch(f"no such network interface: index {index}")

    def _owner(self, ip: IPAddress) -> Link | None:
        """The link that has this address, whatever its kind: the user asked for exactly this one."""
        owners = {address.index for address in self.view.addresses if address.interface.ip == ip}
        return next((link for link in self.view.links if link.index in owners), None)

    def finish(self, found: _Found) -> ExternalInterface:
        """Fill in the addresses that the match left open, and what is published."""
        link = found.link
        address, address6 = found.address, found.address6
        if self.ipv4 and address is None:
            first = next(iter(usable_addresses(self.view.addresses, link.index, 4)), None)
            if not isinstance(first, IPv4Address):
                raise _NoMatch(f"failed to find IPv4 address for interface {link.name}")
            address = first
        if self.ipv6 and address6 is None:
            first = next(iter(usable_addresses(self.view.addresses, link.index, 6)), None)
            if not isinstance(first, IPv6Address):
                raise _NoMatch(f"failed to find IPv6 address for interface {link.name}")
            address6 = first
        if link.mtu == 0:
            raise _NoMatch(f"failed to determine MTU for {address or address6} interface")
        public_ip = (self.choice.public_ip or address) if self.ipv4 else None
        public_ipv6 = (self.choice.public_ipv6 or address6) if self.ipv6 else None
        return ExternalInterface(
            link.name, link.index, link.mtu, address, address6, public_ip, public_ipv6, found.reason
        )
