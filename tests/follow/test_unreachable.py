"""When a peer counts as unreachable and when no more, what the log says of it, and that no flood changes more than that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from dataplane.errors import HostError, HostFault
from dataplane.follow import unreachable
from dataplane.follow.unreachable import UnreachableWatch
from dataplane.host.edges.icmp_errors import Unreachable
from dataplane.model import IPNetwork, Peer, PeerCounters
from dataplane.observe.state import DeviceState, NodeState
from tests.control.fakes import FakeForwarder, VirtualClock, backend, conf, go, own, run_until

(plan,) = backend.plans(conf, own, interface="eth0", interface_mtu=1500, address=own.attrs.public_ip, address6=None)
ours = plan.underlay_address
router = IPv4Address("198.51.100.9")


def address(number: int) -> IPv4Address:
    return IPv4Address("192.0.0.0") + number


def prefix(number: int) -> IPv4Network:
    return IPv4Network((int(IPv4Address("10.244.0.0")) + (number << 8), 24))


def closed(number: int = 2, **changed: Any) -> Unreachable:
    fields: dict[str, Any] = {"said_by": address(number), "source": ours, "destination": address(number), "port": 8472}
    return Unreachable("port_closed", **(fields | changed))


class Counting(FakeForwarder):
    """A forwarder whose counters are set by the test: sent and received, by peer."""

    def __init__(self, peers: Iterable[int]) -> None:
        super().__init__()
        self.peers = {prefix(number): Peer(prefix(number), address(number)) for number in peers}
        self.peers[prefix(1)] = Peer(prefix(1), None)
        self.packets: dict[IPNetwork, tuple[int, int]] = {}
        self.asked = 0

    def peer_counters(self, prefixes: Collection[IPNetwork] | None = None) -> dict[IPNetwork, PeerCounters]:
        assert prefixes is not None  # of tens of thousands of peers nobody reads all once a second
        self.asked += 1
        counters = {each: self.packets.get(each, (0, 0)) for each in prefixes if each in self.peers}
        return {each: PeerCounters(tx_packets=tx, rx_packets=rx) for each, (tx, rx) in counters.items()}


class Waiting:
    """What a socket holds."""

    def __init__(self) -> None:
        self.messages: list[Unreachable | None] = []
        self.closed = False

    def read(self, most: int) -> Iterator[Unreachable | None]:
        for _ in range(min(most, len(self.messages))):
            yield self.messages.pop(0)

    def close(self) -> None:
        self.closed = True


class Watched:
    """A watch over one device, looked at once a second."""

    def __init__(self, *peers: int, workers: int = 1) -> None:
        self.clock = VirtualClock()
        self.state = NodeState(now=self.clock.now)
        self.forwarder = Counting(peers or (2,))
        self.device = DeviceState(plan.name, plan.mtu, plan.port, workers, 7, self.forwarder)
        self.state.devices[plan.name] = self.device
        self.socket = Waiting()
        self.watch = UnreachableWatch(plan, self.state, self.clock)

    def look(self, *messages: Unreachable | None, seconds: float = 1.0) -> None:
        self.socket.messages += messages
        self.clock.time += seconds
        asyncio.run(self.watch.look(self.socket))

    def exchange(self, sent: int, received: int, number: int = 2) -> None:
        self.forwarder.packets[prefix(number)] = (sent, received)

    def reason(self, number: int = 2) -> str | None:
        told = self.device.unreachable.get(address(number))
        return None if told is None else told.reason

    def count(self, number: int = 2) -> int:
        told = self.device.unreachable.get(address(number))
        return 0 if told is None else told.count


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger=unreachable.log.name)
    return caplog


def test_from_the_first_message_until_something_comes(log: pytest.LogCaptureFixture) -> None:
    node = Watched()
    node.exchange(5, 5)
    node.look()
    assert (node.reason(), node.count()) == (None, 0)
    node.look(closed(), None)
    begun = node.clock.time
    node.look(closed())
    told = node.device.unreachable[address(2)]
    assert (told.reason, told.said_by, told.count) == ("port_closed", address(2), 2)
    assert (told.since, told.last) == (begun, begun + 1)
    node.exchange(9, 5)
    node.look(seconds=10)
    assert node.reason() == "port_closed"
    node.exchange(9, 6)
    node.look()
    assert (node.reason(), node.count()) == (None, 2)
    assert log.messages == [
        "peer 10.244.2.0/24 at 192.0.0.2: port closed: no daemon listens there",
        "peer 10.244.2.0/24 at 192.0.0.2: packets come from it again",
    ]
    node.look(closed())
    assert (node.reason(), told.since) == ("port_closed", node.clock.time)


def test_a_peer_that_is_heard_while_it_rejects_stays_unreachable(log: pytest.LogCaptureFixture) -> None:
    node = Watched()
    for second in range(100):
        node.exchange(second, second)
        node.look(*([] if second % 3 else [closed()]))  # a host sends few
        assert node.reason() == "port_closed"
    assert len(log.messages) == 1


def test_over_when_what_is_sent_brings_no_more_messages() -> None:
    node = Watched()
    node.exchange(1, 0)
    node.look(closed())
    node.look(seconds=3600)  # nothing is sent to it: nothing is known
    assert node.reason() == "port_closed"
    node.exchange(2, 0)
    node.look()
    node.look(seconds=unreachable.silent_s - 1)
    assert node.reason() == "port_closed"
    node.look(closed())  # it was long on its way
    node.exchange(3, 0)
    node.look()
    node.look(seconds=unreachable.silent_s - 1)
    assert node.reason() == "port_closed"
    node.look()
    assert node.reason() is None


def test_where_the_kernel_counts_by_no_peer_silence_alone_ends_it() -> None:
    node = Watched(workers=0)
    node.look(closed())
    node.look(seconds=unreachable.silent_s - 1)
    assert node.reason() == "port_closed"
    node.look()
    assert node.reason() is None


def test_a_device_that_is_built_anew_counts_from_zero() -> None:
    node = Watched()
    node.exchange(100, 100)
    node.look(closed())
    node.device.forwarding = None
    node.look(closed(3), seconds=10)  # whose it is, is not known now
    assert node.reason() == "port_closed"
    node.device.forwarding = node.forwarder
    node.exchange(1, 0)
    node.look()
    assert node.reason() == "port_closed"
    node.exchange(1, 1)
    node.look()
    assert node.reason() is None


@pytest.mark.parametrize(
    "message",
    [
        closed(said_by=router),
        closed(source=router),
        closed(port=53),
        closed(destination=ours, said_by=ours),
        closed(3),  # no peer
        closed(destination=address(1), said_by=address(1)),
        None,
    ],
)
def test_what_does_not_concern_a_peer_counts_for_nobody(message: Unreachable | None) -> None:
    node = Watched()
    node.look(message)
    assert node.device.unreachable == {}


@pytest.mark.parametrize("reason", ["host_unreachable", "no_route", "prohibited"])
def test_the_other_reasons_may_be_anybodys(reason: Any, log: pytest.LogCaptureFixture) -> None:
    node = Watched()
    node.look(Unreachable(reason, router, ours, address(2), 8472))
    assert (node.reason(), node.device.unreachable[address(2)].said_by) == (reason, router)
    assert log.messages[0].endswith("; says 198.51.100.9")


def test_a_lease_that_goes_takes_its_peers_state_with_it() -> None:
    node = Watched()
    node.look(closed())
    node.forwarder.peers[prefix(2)] = Peer(prefix(2), address(3))
    node.look()
    assert node.device.unreachable == {}
    node.look(closed(3))
    assert node.reason(3) == "port_closed"
    del node.forwarder.peers[prefix(2)]
    node.look()
    assert node.device.unreachable == {}


def test_the_log_names_few_and_status_has_all(log: pytest.LogCaptureFixture) -> None:
    node = Watched(*range(2, 202))
    for _ in range(3):
        node.look(*(closed(number) for number in range(2, 202)))
    assert sum(node.reason(number) == "port_closed" for number in range(2, 202)) == 200
    assert len(log.messages) == unreachable.named_a_minute + 1
    assert log.messages[-1] == "and more peers are unreachable; `dataplane status` shows them"
    log.clear()
    for number in range(2, 202):
        node.exchange(0, 1, number)
    node.look(seconds=10)
    assert not any(node.reason(number) for number in range(2, 202))
    assert len(log.messages) == unreachable.named_a_minute


def test_a_state_that_comes_and_goes_is_not_named_each_time(log: pytest.LogCaptureFixture) -> None:
    node = Watched()
    for round_ in range(600):
        node.exchange(0, round_ + 1)
        node.look(seconds=6)
        node.look(closed(), seconds=1)
    minutes = 600 * 7 / 60
    assert len(log.messages) <= (minutes + 1) * (2 * unreachable.named_a_minute + 1)


def test_a_flood_is_taken_in_pieces() -> None:
    async def scenario() -> None:
        node = Watched()
        node.socket.messages = [closed()] * 3000
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await node.watch.look(node.socket)
        assert node.count() == unreachable.most_a_look
        assert turns >= unreachable.most_a_look // unreachable.slice_length
        await node.watch.look(node.socket)
        assert node.count() == 2 * unreachable.most_a_look
        task.cancel()

    go(scenario())


def test_of_thousands_of_unreachable_peers_some_are_looked_at_each_time_and_all_in_turn() -> None:
    many = range(2, 2502)
    node = Watched(*many)
    node.look(*(closed(number) for number in many))
    for _ in range(5):
        node.look()
    assert all(node.reason(number) == "port_closed" for number in many)
    for number in many:
        node.exchange(0, 1, number)
    for _ in range(3):
        assert any(node.reason(number) for number in many)
        node.forwarder.asked = 0
        node.look(seconds=10)
        assert node.forwarder.asked <= unreachable.most_a_look
    assert not any(node.reason(number) for number in many)


def opened_by(node: Watched, answer: Waiting | HostError) -> UnreachableWatch:
    def open_messages(family: int, port: int) -> Waiting:
        assert (family, port) == (4, 8472)
        if isinstance(answer, HostError):
            raise answer
        return answer

    return UnreachableWatch(plan, node.state, node.clock, open_messages)


def test_the_socket_is_read_for_ever_and_closed_at_the_end() -> None:
    node = Watched()
    node.socket.messages = [closed()] * 3
    go(run_until(lambda: node.count() == 3, opened_by(node, node.socket).run()))
    assert node.socket.closed


def test_without_the_right_to_a_raw_socket_it_is_said_and_nothing_fails(log: pytest.LogCaptureFixture) -> None:
    node = Watched()
    watch = opened_by(node, HostFault("no raw socket: Operation not permitted; this needs CAP_NET_RAW"))
    text = "flannel.1: ICMP errors about peers are not read: no raw socket: Operation not permitted; this needs CAP_NET_RAW"
    go(run_until(lambda: text in node.state.problems(), watch.run()))
    assert log.messages == [text]
    assert text not in node.state.problems()  # of a life that is over


def test_a_host_that_cannot_now_is_tried_again() -> None:
    """By whoever runs the task."""
    node = Watched()
    with pytest.raises(HostError):
        asyncio.run(opened_by(node, HostError("no raw socket: Too many open files")).run())
