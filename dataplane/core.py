"""The one door to the C core: typed configuration, peers and counters around the cffi module.

Nothing else imports `dataplane._core` (a test holds that). What must stay true: every call's return code is
turned into an exception here, descriptors stay the caller's, and no packet ever passes through Python.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from errno import EINVAL
from ipaddress import ip_address, ip_network
from itertools import islice
from os import strerror
from struct import Struct

from dataplane._core import ffi, lib
from dataplane.errors import CoreError
from dataplane.model import IPAddress, IPNetwork, Peer, PeerCounters, type_udp, type_vxlan

log = logging.getLogger(__name__)

_backends = {type_udp: lib.DP_BACKEND_UDP, type_vxlan: lib.DP_BACKEND_VXLAN}

offload_bits: Mapping[str, int] = {
    "tun_gso": lib.DP_OFFLOAD_TUN_GSO,
    "tun_uso": lib.DP_OFFLOAD_TUN_USO,
    "udp_segment": lib.DP_OFFLOAD_UDP_SEGMENT,
    "udp_gro": lib.DP_OFFLOAD_UDP_GRO,
    "coalesce": lib.DP_OFFLOAD_COALESCE,
    "tunnel_gso": lib.DP_OFFLOAD_TUNNEL_GSO,
}
all_offloads = frozenset(offload_bits)
max_workers: int = lib.DP_MAX_WORKERS
max_sources: int = lib.DP_MAX_SOURCES
max_queues: int = lib.DP_MAX_QUEUES
max_peers: int = lib.DP_MAX_PEERS

_counter_names = [name for name, _ in ffi.typeof("struct dp_counters").fields]
_drop_prefix = "drop_"
_peer_bytes = ffi.sizeof("struct dp_peer")
table_layout = ";".join(
    f"{kind} {ffi.sizeof(kind)}: "
    + ", ".join(f"{of.type.cname} {name}@{of.offset}" for name, of in ffi.typeof(kind).fields)
    for kind in ("struct dp_address", "struct dp_peer", "struct dp_peer_counters")
)
"""How peers lie in what `Forwarder.table` and `told` return: what was written by another layout is not to be read."""


@dataclass(frozen=True, slots=True)
class ForwarderConfig:
    """What one forwarder (one TUN, one underlay family, one wire format) is made of.

    Attributes:
        backend: "udp" or "vxlan".
        mtu: largest inner packet, bytes.
        port: UDP destination port of what we send.
        underlay_family: 4 or 6.
        tun_fds, receive_fds: as many for each worker (the i-th is that of worker i modulo workers), at most `max_queues`;
            it reads its own in turns. Non-blocking, owned by the caller.
        source_fds: sockets to send from; the flow hash chooses one.
        tunnel_fd: a TAP that takes tunnel super-packets for the underlay (host/edges/tunnel.py), -1 without.
        vnet_hdr: the TUN was opened with IFF_VNET_HDR.
        vni, vtep_mac: vxlan only.
        tunnel4, tunnel6: our addresses on the TUN.
        workers: each is a thread, and one for bulk beside it.
        spin_us: how long an idle worker polls before it sleeps, microseconds.
        offloads: names out of `offload_bits`; what the kernel cannot do is dropped by a probe.
    """

    backend: str
    mtu: int
    port: int
    underlay_family: int
    tun_fds: tuple[int, ...]
    receive_fds: tuple[int, ...]
    source_fds: tuple[int, ...]
    tunnel_fd: int = -1
    vnet_hdr: bool = True
    vni: int = 1
    vtep_mac: bytes = bytes(6)
    tunnel4: IPAddress | None = None
    tunnel6: IPAddress | None = None
    workers: int = 1
    spin_us: int = 0
    offloads: frozenset[str] = field(default=all_offloads)


def _check(call: str, code: int, text: str = "") -> None:
    if code < 0:
        raise CoreError(call, -code, text or strerror(-code))


def _address_of(raw: ffi.CData) -> IPAddress:
    return ip_address(bytes(raw.bytes)[: 4 if raw.family == 4 else 16])


def _prefix_of(raw: ffi.CData) -> IPNetwork:
    return ip_network((_address_of(raw.prefix), raw.prefix_len))


def _peer_of(raw: ffi.CData) -> Peer:
    return Peer(_prefix_of(raw), None if raw.local else _address_of(raw.next_hop), bytes(raw.vtep_mac))


def _set_address(target: ffi.CData, address: IPAddress | None) -> None:
    if address is not None:
        target.family = address.version
        ffi.memmove(target.bytes, address.packed, len(address.packed))


def _changes(before: bytes, now: bytes) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield slot, packets sent and received of those that differ; most do not, and are passed over by the hundred."""
    rows, step = Struct("=4Q"), 128
    for at in range(0, len(now), step * rows.size):
        some = slice(at, at + step * rows.size)
        if now[some] == before[some]:
            continue
        pairs = zip(rows.iter_unpack(before[some]), rows.iter_unpack(now[some]), strict=True)
        for slot, (old, new) in enumerate(pairs, at // rows.size):
            if new != old:
                yield slot, (new[0] - old[0], new[2] - old[2])


class Forwarder:
    """A running (or ready) data plane: worker threads in C, a forwarding table, counters.

    Raises `CoreError` from every method when the core refuses.
    """

    def __init__(self, config: ForwarderConfig) -> None:
        self.config = config
        raw = ffi.new("struct dp_config *")
        raw.backend = _backends[config.backend]
        raw.offloads = sum(offload_bits[name] for name in config.offloads)
        raw.vnet_hdr = config.vnet_hdr
        raw.vni = config.vni
        raw.port = config.port
        raw.mtu = config.mtu
        raw.underlay_family = config.underlay_family
        raw.spin_us = config.spin_us
        ffi.memmove(raw.vtep_mac, config.vtep_mac, 6)
        _set_address(raw.tunnel4, config.tunnel4)
        _set_address(raw.tunnel6, config.tunnel6)
        raw.workers = config.workers
        for index, edges in zip(range(config.workers), raw.edges, strict=False):
            tuns, receives = config.tun_fds[index :: config.workers], config.receive_fds[index :: config.workers]
            edges.tuns, edges.receives = len(tuns), len(receives)
            edges.tun_fds[0 : len(tuns[:max_queues])] = tuns[:max_queues]
            edges.receive_fds[0 : len(receives[:max_queues])] = receives[:max_queues]
        raw.tunnel_fd = config.tunnel_fd
        raw.sources = len(config.source_fds)
        for index, fd in enumerate(config.source_fds):
            raw.source_fds[index] = fd
        out = ffi.new("struct dp **")
        _check("dp_new", lib.dp_new(raw, out))
        self._dp = out[0]
        self._threads: list[threading.Thread] = []
        self._failures: list[str] = []
        self._stopping = False
        self._slots: dict[IPNetwork, int] = {}
        self._peers: dict[IPNetwork, Peer] = {}
        self._free: list[int] = []
        self._used = 0
        self.commits = 0  # how often the table was changed
        self._unpublished = False
        self._baseline: dict[int, PeerCounters] = {}
        self._exchanged: bytes | None = None
        self._unread: Iterator[tuple[int, Peer]] = iter(())
        self._start = self._read()  # sockets that were there before us have lost some before

    @property
    def offloads(self) -> frozenset[str]:
        """Names of the offloads that the probe found working and that are still in use by every worker."""
        bits = lib.dp_offloads(self._dp)
        return frozenset(name for name, bit in offload_bits.items() if bits & bit)

    def use_tunnel(self, fd: int) -> None:
        """Send super-packets by this TAP, as `ForwarderConfig.tunnel_fd`; once, where there was none, also while it runs."""
        _check("dp_tunnel", lib.dp_tunnel(self._dp, fd))

    def forbid(self, offload: str) -> None:
        """Use an offload no more, from the next packet on and for good."""
        _check("dp_forbid", lib.dp_forbid(self._dp, offload_bits[offload]))

    @property
    def peers(self) -> Mapping[IPNetwork, Peer]:
        """The forwarding table as last committed, by prefix."""
        return self._peers

    @property
    def failures(self) -> tuple[str, ...]:
        """Why workers ended although nobody stopped them; empty while all is well."""
        return tuple(self._failures)

    def start(self) -> None:
        """Start two threads per worker, see csrc/run/bulk.h; each runs in C without the GIL until `stop`. Once only."""
        if self._threads:
            return
        for index in range(2 * self.config.workers):
            name = f"worker {index}" if index < self.config.workers else f"bulk worker {index - self.config.workers}"
            thread = threading.Thread(target=self._run, args=(index, name), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, index: int, name: str) -> None:
        if index < self.config.workers:
            lib.dp_hurry()
        code = lib.dp_run(self._dp, index)
        if not self._stopping:
            reason = strerror(-code) if code < 0 else "ended"
            self._failures.append(f"{name}: {reason}")
            log.error("%s of the data plane stopped: %s", name, reason)

    def update(self, put: Iterable[Peer], remove: Iterable[IPNetwork] = ()) -> dict[IPNetwork, str]:
        """Change the forwarding table in one step: packets see all of it or nothing of it.

        Returns:
            Why, by the prefix of each peer that the core refuses. The table has nothing for it then, since what it had
            before would be wrong, and all of the others.
        Raises:
            CoreError: there is no new table; the next call tries again to publish what was changed.
        """
        refused: dict[IPNetwork, str] = {}
        for prefix in remove:
            self._clear(prefix)
        raw = ffi.new("struct dp_peer *")
        for peer in put:
            self._fill(raw, peer)
            slot = self._slots.get(peer.prefix)
            if slot is None:
                slot = self._take_slot()
                if slot is None:
                    refused[peer.prefix] = f"the forwarding table holds at most {max_peers} prefixes"
                    continue
                self._slots[peer.prefix] = slot
            code = lib.dp_peer_set(self._dp, slot, raw)
            if code < 0:
                refused[peer.prefix] = strerror(-code)
                self._clear(peer.prefix)
                continue
            self._peers[peer.prefix] = peer
            self._unpublished = True
        if self._unpublished:
            _check("dp_commit", lib.dp_commit(self._dp))
            self._unpublished = False
            self.commits += 1
        return refused

    def table(self) -> bytes:
        """The forwarding table as `load` takes it: `table_layout` says how each peer lies in it."""
        raw = ffi.new("struct dp_peer[]", self._used)
        _check("dp_read_peers", lib.dp_read_peers(self._dp, 0, self._used, raw))
        return bytes(ffi.buffer(raw))

    def load(self, table: bytes, ended: frozenset[str] = frozenset()) -> None:
        """Publish another forwarder's `table` as ours, which is empty. `peers` has it once `read_loaded` has gone through.

        Args:
            ended: prefixes that are left out, as text.
        Raises:
            CoreError: there is no such table; ours stays empty.
        """
        count, rest = divmod(len(table), _peer_bytes)
        if rest or count > max_peers or self._used:
            raise CoreError("load", EINVAL, f"{len(table)} bytes are no table of at most {max_peers} prefixes")
        raw = ffi.new("struct dp_peer[]", count)
        ffi.memmove(raw, table, len(table))
        for slot in range(count) if ended else ():
            if raw[slot].prefix.family and str(_prefix_of(raw[slot])) in ended:
                raw[slot].prefix.family = 0
        for slot in range(count):
            if raw[slot].prefix.family:
                _check("dp_peer_set", lib.dp_peer_set(self._dp, slot, raw + slot))
        _check("dp_commit", lib.dp_commit(self._dp))
        self._used = count
        self._free = [slot for slot in range(count) if not raw[slot].prefix.family]
        self._unread = ((slot, _peer_of(raw[slot])) for slot in range(count) if raw[slot].prefix.family)

    def read_loaded(self, most: int) -> bool:
        """Take up to `most` peers of what was loaded into `peers`; returns whether there may be more."""
        for slot, peer in (some := list(islice(self._unread, most))):
            self._slots[peer.prefix] = slot
            self._peers[peer.prefix] = peer
        return len(some) == most

    def told(self) -> tuple[dict[str, int], bytes]:
        """All counters by the core's names, and those of the peers as `count_on` takes them: by slot, as `table` is."""
        raw = ffi.new("struct dp_peer_counters[]", self._used)
        _check("dp_read_peer_counters", lib.dp_read_peer_counters(self._dp, 0, self._used, raw))
        for slot, before in self._baseline.items():
            for name, _ in ffi.typeof("struct dp_peer_counters").fields:
                setattr(raw[slot], name, getattr(raw[slot], name) - getattr(before, name))
        return self._read(), bytes(ffi.buffer(raw))

    def count_on(self, counters: Mapping[str, int], peers: bytes) -> None:
        """Count on from what another forwarder `told`; to be called after its table was loaded, before `start`."""
        raw = ffi.new("struct dp_counters *")
        for name in _counter_names:
            setattr(raw, name, max(0, counters.get(name, 0) - self._start[name]))
        of_peers = ffi.new("struct dp_peer_counters[]", self._used)
        if len(peers) == ffi.sizeof(of_peers):
            ffi.memmove(of_peers, peers, len(peers))
        _check("dp_count_on", lib.dp_count_on(self._dp, raw, self._used, of_peers))
        self._start = self._read()

    def _clear(self, prefix: IPNetwork) -> None:
        slot = self._slots.pop(prefix, None)
        if slot is not None:
            _check("dp_peer_clear", lib.dp_peer_clear(self._dp, slot))
            self._unpublished |= self._peers.pop(prefix, None) is not None
            self._free.append(slot)

    def _take_slot(self) -> int | None:
        if self._free:
            slot = self._free.pop()
            self._baseline[slot] = self._raw_peer_counters(slot, 1)[0]
            return slot
        if self._used == max_peers:
            return None
        self._used += 1
        return self._used - 1

    @staticmethod
    def _fill(raw: ffi.CData, peer: Peer) -> None:
        raw.prefix_len = peer.prefix.prefixlen
        _set_address(raw.prefix, peer.prefix.network_address)
        raw.local = peer.next_hop is None
        raw.next_hop.family = 0
        _set_address(raw.next_hop, peer.next_hop)
        ffi.memmove(raw.vtep_mac, peer.vtep_mac, 6)

    def counters(self) -> dict[str, int]:
        """The core's totals by name, drops left out; see csrc/include/dataplane.h for what each counts."""
        return {name: value for name, value in self._read().items() if not name.startswith(_drop_prefix)}

    def drops(self) -> dict[str, int]:
        """Packets and datagrams dropped, by reason; every reason is present."""
        every = self._read().items()
        return {name.removeprefix(_drop_prefix): value for name, value in every if name.startswith(_drop_prefix)}

    def since_start(self) -> dict[str, int]:
        """All counters by the core's names, without what was counted before us."""
        return {name: value - self._start[name] for name, value in self._read().items()}

    def _read(self) -> dict[str, int]:
        raw = ffi.new("struct dp_counters *")
        _check("dp_read_counters", lib.dp_read_counters(self._dp, raw))
        return {name: getattr(raw, name) for name in _counter_names}

    def peer_counters(self, prefixes: Iterable[IPNetwork] | None = None) -> dict[IPNetwork, PeerCounters]:
        """Counters by overlay prefix, from the moment the prefix entered the table, ours or the one before it.

        Args:
            prefixes: those to read, of which the table need not have all; None: all that it has.
        """
        zero = PeerCounters()
        return {
            prefix: self._raw_peer_counters(slot, 1)[0] - self._baseline.get(slot, zero)
            for prefix in (self._slots if prefixes is None else prefixes)
            if (slot := self._slots.get(prefix)) is not None
        }

    def exchanged(self) -> dict[IPNetwork, tuple[int, int]]:
        """Packets sent to and received from each peer that exchanged any since this was asked last; at first: none."""
        raw = ffi.new("struct dp_peer_counters[]", self._used)
        _check("dp_read_peer_counters", lib.dp_read_peer_counters(self._dp, 0, self._used, raw))
        before, self._exchanged = self._exchanged, bytes(ffi.buffer(raw))
        if before is None:
            return {}
        found = dict(_changes(before.ljust(len(self._exchanged), b"\0"), self._exchanged))
        prefixes = {slot: prefix for prefix, slot in self._slots.items() if slot in found} if found else {}
        return {prefix: found[slot] for slot, prefix in prefixes.items()}

    def _raw_peer_counters(self, first: int, count: int) -> list[PeerCounters]:
        raw = ffi.new("struct dp_peer_counters[]", count)
        _check("dp_read_peer_counters", lib.dp_read_peer_counters(self._dp, first, count, raw))
        return [PeerCounters(row.tx_packets, row.tx_bytes, row.rx_packets, row.rx_bytes) for row in raw]

    def stop(self) -> None:
        """Stop all workers and wait for them; packets in flight inside the core are finished first."""
        if self._dp is None:
            return
        self._stopping = True
        _check("dp_stop", lib.dp_stop(self._dp))
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def resume(self) -> None:
        """Go on after `stop`, unless it was closed meanwhile."""
        if self._dp is None:
            return
        _check("dp_resume", lib.dp_resume(self._dp))
        self._stopping = False
        self.start()

    def close(self) -> None:
        """Stop, then free the core's memory. The descriptors stay open; their owner closes them."""
        if self._dp is not None:
            self.stop()
            lib.dp_free(self._dp)
            self._dp = None
