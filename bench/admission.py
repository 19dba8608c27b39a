"""What the filter in front of a kernel vxlan device costs: CPU time per packet with it, beside CPU time without it.

`--by counters` measures what counts losses around that device in the same way.

    .venv/bin/python bench/admission.py
    .venv/bin/python bench/admission.py --by nftables --leases 10000 --slices 40    # the set of senders, where BPF is refused

Two nodes with the kernel's own vxlan, a pod on each, and the filter at both nodes' eth0, with as many leases as asked for.
One thread owns both pods' sockets and is pinned, so that sending, the way through both nodes, the filter and receiving
happen on one processor and in its CPU time, whatever else the machine does. The filter is put in and taken out between
short slices (without, with, with, without, …) of a fixed amount of work. A slice whose packets did not all arrive at
once did some of its work elsewhere: it is left out, and counted. `speed` is what the filter leaves of the rate that one
processor reaches: the median of the ratios of neighbouring slices, with its 95 % bootstrap interval. Needs root, for a
real-time priority.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from statistics import median, quantiles

from pyroute2 import IPRoute

from dataplane.host.admission import ingress
from dataplane.host.admission.checks import Guarded
from dataplane.host.admission.device_filter import Admission
from dataplane.host.admission.senders_iptables import IptablesSenders
from dataplane.host.admission.senders_nft import NftSenders
from dataplane.host.losses.count_programs import Departing
from dataplane.host.losses.passing import Departures
from dataplane.keepers import senders
from dataplane.keepers.senders import Mechanism
from dataplane.lab import enclosure
from dataplane.lab.bench.contestants import Contestant
from dataplane.lab.bench.results.stats import ratio_interval
from dataplane.lab.bench.underlays import kinds
from dataplane.lab.kernel_node import KernelNode, port, vni
from dataplane.lab.topology import Pod
from dataplane.model import IPNetwork, Peer, VxlanLink

batch, payload_bytes = 64, 64
udp_packets = 8_192  # a slice
tcp_bytes, chunk_bytes = 16 << 20, 256 << 10
target = 0.97


class _Message(ctypes.Structure):
    """struct mmsghdr, with the address of a struct iovec in the fourth word (64-bit machines)."""

    _fields_ = (("words", ctypes.c_uint64 * 8),)


class Datagrams:
    """A socket's end for `batch` datagrams a system call."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._data = ctypes.create_string_buffer(payload_bytes)
        self._vector = (ctypes.c_uint64 * 2)(ctypes.addressof(self._data), payload_bytes)
        self._messages = (_Message * batch)()
        for message in self._messages:
            message.words[2], message.words[3] = ctypes.addressof(self._vector), 1

    def send(self) -> int:
        """Send them; returns how many went."""
        return int(self._libc.sendmmsg(self._sock.fileno(), self._messages, batch, 0))

    def receive(self) -> int:
        """Take what is there, `batch` at most; returns how many that were."""
        return max(0, int(self._libc.recvmmsg(self._sock.fileno(), self._messages, batch, socket.MSG_DONTWAIT, None)))


class Filters:
    """The filter of each node, in or out."""

    def __init__(self, nodes: list[KernelNode], leases: int, undo: ExitStack) -> None:
        self._places = []
        for node, other in zip(nodes, reversed(nodes), strict=True):
            own, theirs = node.lease, other.lease
            assert own.subnet is not None and theirs.subnet is not None
            link = VxlanLink("flannel.1", vni, port, node.address, "eth0", 1450)
            made = Admission(Guarded(link, _mac(node), own.subnet))
            undo.callback(made.close)
            made.listen_at({IPv4Network(node.address)})
            wanted: dict[IPNetwork, Peer] = {theirs.subnet: Peer(theirs.subnet, other.address, _mac(other))}
            for number in range(1, leases):
                subnet = IPv4Network(((172 << 24) + (number << 8), 24))
                wanted[subnet] = Peer(subnet, IPv4Address("198.18.0.0") + number, number.to_bytes(6))
            made.change(wanted, wanted)
            netlink = IPRoute(netns=node.name)
            undo.callback(netlink.close)
            (index,) = netlink.link_lookup(ifname="eth0")
            self._places.append((made, netlink, index))

    def put(self, there: bool) -> None:
        """Put them in or take them out."""
        for made, netlink, index in self._places:
            if there:
                made.attach(netlink, index)
            else:
                ingress.detach(netlink, "flannel.1", index)


class Sets:
    """The set of senders of each node, in or out; says how long it takes to fill one, and to change one sender."""

    def __init__(self, nodes: list[KernelNode], leases: int, by: str) -> None:
        self._nodes = nodes
        self._others = {str(IPv4Address("198.18.0.0") + number) for number in range(1, leases)}
        self._make: Callable[[VxlanLink], Mechanism] = NftSenders if by == "nftables" else IptablesSenders
        self.fill_s: list[float] = []
        self.change_s: list[float] = []

    def put(self, there: bool) -> None:
        """Put them in or take them out."""
        for node, other in zip(self._nodes, reversed(self._nodes), strict=True):
            with _inside(node.name):
                asyncio.run(self._put(node, other) if there else _remove())

    async def _put(self, node: KernelNode, other: KernelNode) -> None:
        made = self._make(VxlanLink("flannel.1", vni, port, node.address, "eth0", 1450))
        begun = time.perf_counter()
        await made.apply(self._others | {str(other.address)})
        filled = time.perf_counter()
        await made.change({"198.51.100.1"}, set())
        self.fill_s.append(filled - begun)
        self.change_s.append(time.perf_counter() - filled)


class Counters:
    """What counts the packets that the kernel loses, at each node, in or out."""

    def __init__(self, nodes: list[KernelNode]) -> None:
        self._nodes = nodes
        self._there = ExitStack()

    def put(self, there: bool) -> None:
        """Put it in or take it out."""
        self._there.close()
        for node in self._nodes if there else ():
            with _inside(node.name):
                interface, device = (socket.if_nametoindex(name) for name in ("eth0", "flannel.1"))
                made = Departures(Departing("vxlan", node.address, port, vni=vni), interface, device)
            self._there.callback(made.close)


async def _remove() -> None:
    await senders.remove("flannel.1", (4,))


def _mac(node: KernelNode) -> bytes:
    data = node.lease.attrs.backend_data
    assert data is not None
    return bytes.fromhex(str(data["VtepMAC"]).replace(":", ""))


def udp(one: Pod, other: Pod, undo: ExitStack) -> Callable[[], float]:
    """64-byte datagrams from pod to pod; a slice returns CPU seconds a packet."""
    sink = undo.enter_context(_socket(other, socket.SOCK_DGRAM))
    sink.bind((other.address, 9000))
    sink.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
    source = undo.enter_context(_socket(one, socket.SOCK_DGRAM))
    source.connect((other.address, 9000))
    sender, receiver = Datagrams(source), Datagrams(sink)

    def work() -> float:
        while receiver.receive():
            pass
        arrived, begun = 0, time.thread_time()
        for _ in range(udp_packets // batch):
            sender.send()
            arrived += receiver.receive()
        spent = time.thread_time() - begun
        return spent / udp_packets if arrived == udp_packets else 0.0

    return work


def tcp(one: Pod, other: Pod, undo: ExitStack) -> Callable[[], float]:
    """One stream from pod to pod; a slice returns CPU seconds a byte."""
    listener = undo.enter_context(_socket(other, socket.SOCK_STREAM))
    listener.bind((other.address, 9001))
    listener.listen()
    source = undo.enter_context(_socket(one, socket.SOCK_STREAM))
    source.connect((other.address, 9001))
    sink = undo.enter_context(listener.accept()[0])
    source.setblocking(False)
    sink.setblocking(False)
    data, room = bytes(chunk_bytes), bytearray(chunk_bytes)

    def work() -> float:
        sent = received = idle = 0
        begun = time.thread_time()
        while received < tcp_bytes:
            moved = 0
            if sent < tcp_bytes:
                try:
                    moved = source.send(data[: tcp_bytes - sent])
                    sent += moved
                except BlockingIOError:
                    pass
            try:
                got = sink.recv_into(room)
                received += got
            except BlockingIOError:
                got = 0
            if not moved and not got:
                idle += 1
                time.sleep(0.0001)
        return (time.thread_time() - begun) / tcp_bytes if idle < 20 else 0.0

    return work


workloads = {"udp64": (udp, "ns a packet", 1e9), "tcp": (tcp, "ns a KB", 1e12)}


@contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """This thread, and what it starts, is there for the body."""
    with Path("/proc/self/ns/net").open() as home, Path(f"/run/netns/{namespace}").open() as there:
        _setns(there.fileno())
        try:
            yield
        finally:
            _setns(home.fileno())


@contextmanager
def _socket(pod: Pod, kind: socket.SocketKind) -> Iterator[socket.socket]:
    """A socket in the pod's namespace."""
    with _inside(pod.name):
        made = socket.socket(socket.AF_INET, kind)
    with made:
        yield made


def _setns(namespace: int) -> None:
    """setns(2) for network namespaces; Python has it since 3.12 only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, 0x40000000) < 0:  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "setns")


def measure(underlay: str, by: str, slices: int, leases: int) -> dict[str, dict[bool, list[float]]]:
    """Every workload's slices without (False) and with the filter."""
    found: dict[str, dict[bool, list[float]]] = {}
    with ExitStack() as undo:
        made = kinds[underlay]()
        contestant = Contestant("kernel", made, None)
        undo.callback(contestant.close)
        nodes = [node for node in contestant.lab.nodes if isinstance(node, KernelNode)]
        filters: Filters | Counters | Sets
        if by == "bpf":
            filters = Filters(nodes, leases, undo)
        else:
            filters = Counters(nodes) if by == "counters" else Sets(nodes, leases, by)
        _go_alone()
        undo.callback(os.sched_setscheduler, 0, os.SCHED_OTHER, os.sched_param(0))
        for name, (make, _, _) in workloads.items():
            work = make(*contestant.pods, undo)
            samples: dict[bool, list[float]] = {False: [], True: []}
            stands = False
            for number in range(slices):
                there = number % 4 in (1, 2)
                if there != stands:
                    filters.put(there)
                    stands = there
                work()  # what the change itself made slow
                samples[there].append(work())
                time.sleep(0.02)  # others' turn
            if stands:
                filters.put(False)
            found[name] = samples
        if isinstance(filters, Sets):
            print(
                f"{by}: {median(filters.fill_s):.2f} s to fill, {median(filters.change_s):.3f} s to change one",
                file=sys.stderr,
            )
    return found


def _go_alone() -> None:
    """On one processor, before everybody else."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(10))
    except PermissionError:
        print("no real-time priority: other processes will disturb the figures", file=sys.stderr)


def report(underlay: str, found: dict[str, dict[bool, list[float]]]) -> None:
    """Print a line for each workload."""
    for name, samples in found.items():
        _, unit, scale = workloads[name]
        without, with_ = ([value * scale for value in samples[there] if value] for there in (False, True))
        left_out = sum(values.count(0.0) for values in samples.values())
        # Neighbours are compared: the machine's own state changes from second to second, by more than the filter costs.
        pairs = zip(samples[False], samples[True], strict=True)
        speeds = [before / after for before, after in pairs if before and after]
        low, high = ratio_interval([1.0], speeds)
        spread = [quantiles(values, n=4) for values in (without, with_)]
        print(
            f"{underlay:11} {name:6} without {median(without):7.0f} [{spread[0][0]:.0f}-{spread[0][2]:.0f}]  "
            f"with {median(with_):7.0f} [{spread[1][0]:.0f}-{spread[1][2]:.0f}] {unit}  "
            f"speed {median(speeds):.3f} [{low:.3f}-{high:.3f}] (at least {target})  {len(without) + len(with_)} slices, "
            f"{left_out} left out"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=200, help="of each workload (default: 200)")
    parser.add_argument("--leases", type=int, default=1_000, help="in the filter (default: 1000)")
    parser.add_argument(
        "--by",
        choices=("bpf", "nftables", "iptables", "counters"),
        default="bpf",
        help="what checks, or counters: what counts losses (default: bpf)",
    )
    parser.add_argument("--underlay", choices=("offloads", "segmenting"), action="append", help="default: both")
    parser.add_argument("--json", action="store_true", help="print every slice as JSON")
    args = parser.parse_args()
    if not enclosure.inside():
        return enclosure.run(sys.orig_argv)
    print(f"load {os.getloadavg()[0]:.1f}, {args.leases} leases", file=sys.stderr)
    for underlay in args.underlay or ("offloads", "segmenting"):
        found = measure(underlay, args.by, args.slices, args.leases)
        if args.json:
            print(json.dumps({underlay: {name: {str(t): v for t, v in by.items()} for name, by in found.items()}}))
        else:
            report(underlay, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
