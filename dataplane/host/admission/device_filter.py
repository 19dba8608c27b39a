"""Who may send into the kernel's vxlan device: a BPF filter in front of it, with the leases in its maps.

The kernel's device takes a frame from anybody. The filter stands at the ingress of the external interface and looks at
UDP datagrams to this host, our port and our VNI: the outer source must hold a lease, and the frame must come from
that peer's VTEP MAC, with an inner source in its subnet (or its own underlay address), to our VTEP MAC and subnet. What
must stay true: whatever is not for our device passes untouched; each way to be dropped has its counter, named as in
csrc/include/dataplane.h; the filter stays when the daemon ends, with the leases as they were, and the next life replaces it
without a moment between.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from ipaddress import IPv4Network, IPv6Network

from pyroute2 import IPRoute

from dataplane.bpf.calls import BpfError, Map, MapKind
from dataplane.host.admission import ingress
from dataplane.host.admission.checks import Guarded, program_name, subnet_at
from dataplane.host.admission.program import MapFds, Tells, filter_program, reasons
from dataplane.host.netlink import Host
from dataplane.model import IPAddress, IPNetwork, Peer

_ethernet, _ethernet_bytes = 1, 14  # linux/if_arp.h ARPHRD_ETHER, linux/if_ether.h ETH_HLEN
most_peers = 1 << 16  # as many /24 as a /8 has
# What any host may take in without an address of its own for it: groups and the limited broadcast.
_groups: Mapping[int, frozenset[IPNetwork]] = {
    4: frozenset((IPv4Network("224.0.0.0/4"), IPv4Network("255.255.255.255/32"))),
    6: frozenset((IPv6Network("ff00::/8"),)),
}


class Admission:
    """The filter of one device and its maps. Methods block, and raise `HostError`."""

    def __init__(self, guarded: Guarded) -> None:
        self._guarded = guarded
        self._size = guarded.own.max_prefixlen // 8
        with ExitStack() as undo:
            self._locals = self._map(undo, MapKind.lpm_trie, "locals", 4 + self._size, 1, most_peers)
            self._senders = self._map(undo, MapKind.hash, "senders", self._size, subnet_at + 2 * self._size, most_peers)
            self._sources = self._map(undo, MapKind.lpm_trie, "sources", 4 + self._size, subnet_at, most_peers)
            self._drops = self._map(undo, MapKind.array, "drops", 4, 8, len(reasons))
            self._undo = undo.pop_all()
        self._local: frozenset[IPNetwork] = frozenset()
        self._held: dict[IPNetwork, Peer] = {}
        self._of_sender: dict[IPAddress, dict[IPNetwork, Peer]] = {}

    def listen_at(self, local: Collection[IPNetwork]) -> None:
        """Look at what comes to these destinations; groups and broadcasts besides."""
        wanted = _groups[self._guarded.own.version].union(local)
        for prefix in wanted - self._local:
            self._locals.put(_trie_key(prefix), b"\0")
        for prefix in self._local - wanted:
            self._locals.remove(_trie_key(prefix))
        self._local = wanted

    def change(self, prefixes: Iterable[IPNetwork], wanted: Mapping[IPNetwork, Peer]) -> None:
        """Make the maps say of these prefixes what `wanted` says."""
        touched: set[IPAddress] = set()
        for prefix in prefixes:
            old, new = self._held.get(prefix), wanted.get(prefix)
            if new is not None and new.next_hop is None:
                new = None
            if old == new:
                continue
            if old is not None and old.next_hop is not None:
                del self._of_sender[old.next_hop][prefix]
                touched.add(old.next_hop)
                del self._held[prefix]
            if new is not None and new.next_hop is not None:
                self._sources.put(_trie_key(prefix), _value(new.next_hop, new.vtep_mac))
                self._of_sender.setdefault(new.next_hop, {})[prefix] = new
                touched.add(new.next_hop)
                self._held[prefix] = new
            else:
                self._sources.remove(_trie_key(prefix))
        for sender in touched:
            leases = self._of_sender[sender]
            if leases:
                prefix, peer = next(iter(leases.items()))
                held = prefix.network_address.packed + prefix.netmask.packed  # no other lease is in it
                self._senders.put(sender.packed, _value(sender, peer.vtep_mac) + held)
            else:
                del self._of_sender[sender]
                self._senders.remove(sender.packed)

    @property
    def held(self) -> Collection[IPNetwork]:
        """The prefixes that are let in."""
        return self._held.keys()

    def attach(self, netlink: IPRoute, ifindex: int) -> str:
        """Put the filter at the interface, in an earlier life's place; returns by which means."""
        maps = MapFds(self._locals.fd, self._senders.fd, self._sources.fd, self._drops.fd)
        (interface,) = netlink.get_links(ifindex)
        link_bytes = _ethernet_bytes if interface["ifi_type"] == _ethernet else 0
        tells = Tells.size
        while True:
            program = filter_program(self._guarded, maps, link_bytes, tells)
            try:
                return ingress.attach(netlink, program, self._guarded.program_name, ifindex)
            except BpfError as error:
                # EACCES is what the verifier answers where it does not know a field.
                if error.code != errno.EACCES or tells is Tells.nothing:
                    raise
            tells = Tells(tells - 1)

    def is_attached(self, netlink: IPRoute, ifindex: int) -> bool:
        """Whether a filter of this name is there."""
        return ingress.is_attached(netlink, self._guarded.program_name, ifindex)

    def drops(self) -> dict[str, int]:
        """Packets dropped by reason, since this was made."""
        values = [self._drops.get(struct.pack("=I", index)) for index in range(len(reasons))]
        return {reason: int(struct.unpack("=Q", value)[0]) for reason, value in zip(reasons, values, strict=True)}

    def close(self) -> None:
        """Let go of the maps; an attached filter keeps them."""
        self._undo.close()

    @staticmethod
    def _map(undo: ExitStack, kind: MapKind, name: str, key_bytes: int, value_bytes: int, entries: int) -> Map:
        made = Map(kind, name, key_bytes, value_bytes, entries)
        undo.callback(made.close)
        return made


async def remove(host: Host, device: str) -> list[str]:
    """Detach the device's filter wherever it is; returns the names of the interfaces. Raises `HostError`."""
    links = await host.links()

    def detach(netlink: IPRoute) -> list[str]:
        return [link.name for link in links if ingress.detach(netlink, program_name(device), link.index)]

    return await host.ask(f"detach the filter of {device}", detach)


def _trie_key(prefix: IPNetwork) -> bytes:
    return struct.pack("=I", prefix.prefixlen) + prefix.network_address.packed


def _value(sender: IPAddress, mac: bytes) -> bytes:
    return sender.packed.ljust(16, b"\0") + mac + bytes(2)
