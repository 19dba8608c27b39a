"""Health, metrics and status: readiness follows what is true now, names and shapes are the contract's.

The HTTP tests speak to real listeners on loopback and on a unix socket.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import stat
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, get_args

import pytest
from aiohttp import ClientSession, UnixConnector

from dataplane.cli import status as status_command
from dataplane.cli import status_view
from dataplane.errors import HostError
from dataplane.model import IPNetwork, Lease, LeaseAttrs, Peer, PeerCounters, UnreachableReason
from dataplane.observe import health
from dataplane.observe.health import Server
from dataplane.observe.metrics import render
from dataplane.observe.notify import notify, watchdog_period
from dataplane.observe.state import Datapath, DeviceState, InterfaceState, NodeState, PeerUnreachable, unreachable_words
from dataplane.observe.status import document
from tests import root

now_s = 1_000_000.0
subnet = IPv4Network("10.244.2.0/24")
mac = bytes.fromhex("020000ab0002")


class Forwarder:
    """One peer with counters, one reason with drops."""

    offloads = frozenset({"udp_gro"})

    def __init__(self) -> None:
        self.failures: tuple[str, ...] = ()
        self.peers: dict[IPNetwork, Peer] = {
            IPv4Network("10.244.1.0/24"): Peer(IPv4Network("10.244.1.0/24"), None),
            subnet: Peer(subnet, IPv4Address("192.0.2.2"), mac),
        }

    def counters(self) -> dict[str, int]:
        return {"tx_packets": 9, "table_changes": 2}

    def drops(self) -> dict[str, int]:
        return {"send_no_route": 5, "receive_vni": 0}

    def peer_counters(self, prefixes: Iterable[IPNetwork] | None = None) -> dict[IPNetwork, PeerCounters]:
        return {subnet: PeerCounters(1, 20, 3, 40)}


class Clock:
    time = now_s

    def now(self) -> float:
        return self.time


def running() -> tuple[NodeState, Clock, Forwarder]:
    clock, forwarder = Clock(), Forwarder()
    state = NodeState(now=clock.now, backend="vxlan", network=("10.244.0.0/16",), vtep_mac="02:00:00:00:00:01")
    state.interface = InterfaceState("eth0", "192.0.2.1", 1500, "the first default route leaves by eth0")
    state.datapath = Datapath("userspace", "no other")
    attrs = LeaseAttrs(IPv4Address("192.0.2.1"), None, "vxlan")
    state.lease = Lease(IPv4Network("10.244.1.0/24"), None, attrs, now_s + 7200)
    state.devices["flannel.1"] = DeviceState("flannel.1", 1450, 8472, 2, 7, forwarder)
    state.leases = 1
    state.store_contact = now_s
    state.blockers.clear()
    return state, clock, forwarder


def read(state: NodeState) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(b"".join(document(state)))
    return found


def test_ready_and_each_reason_not_to_be() -> None:
    state, clock, forwarder = running()
    assert state.unready() == []
    state.blockers["device"] = "flannel.1: the name is taken"
    assert state.unready() == ["flannel.1: the name is taken"]
    state.blockers.clear()
    forwarder.failures = ("worker 1: Bad file descriptor",)
    assert state.unready() == ["flannel.1: worker 1: Bad file descriptor"]
    assert state.workers_alive(state.devices["flannel.1"]) == 1
    forwarder.failures = ()
    state.devices["flannel.1"].forwarding = None
    assert state.unready() == ["device flannel.1 does not exist"]
    state.devices["flannel.1"].forwarding = forwarder
    clock.time += 4
    assert state.unready() == []
    clock.time += 2
    assert state.unready() == ["no contact with the lease store for 6 s"]
    clock.time = state.store_contact = now_s + 7201
    assert state.unready() == ["our lease 10.244.1.0-24 has expired and could not be renewed"]


def test_a_new_node_is_not_ready() -> None:
    assert NodeState().unready() == ["still starting", "no contact with the lease store yet"]


def test_refused_leases_are_problems_but_no_reason_to_be_unready() -> None:
    state, _, _ = running()
    state.refused["10.244.9.0-24"] = "BackendData is missing"
    assert state.unready() == []
    assert list(state.problems()) == ["lease 10.244.9.0-24 is not used: BackendData is missing"]


def test_status_document_has_the_contracts_shape() -> None:
    state, _, _ = running()
    body = read(state)
    assert body["ready"] is True and body["problems"] == []
    assert body["interface"] == {
        "name": "eth0",
        "address": "192.0.2.1",
        "mtu": 1500,
        "reason": "the first default route leaves by eth0",
    }
    assert body["backend"] == "vxlan"
    assert body["datapath"] == {"kind": "userspace", "reason": "no other"}
    assert body["lease"]["subnet"] == "10.244.1.0/24"
    assert body["lease"]["public_ip"] == "192.0.2.1"
    assert body["lease"]["vtep_mac"] == "02:00:00:00:00:01"
    assert body["lease"]["expires"] == now_s + 7200
    (peer,) = body["peers"]
    assert peer == {
        "subnet": "10.244.2.0/24",
        "public_ip": "192.0.2.2",
        "vtep_mac": "02:00:00:ab:00:02",
        "device": "flannel.1",
        "direct": False,
        "tx_packets": 1,
        "tx_bytes": 20,
        "rx_packets": 3,
        "rx_bytes": 40,
        "icmp_unreachables": 0,
        "unreachable": None,
    }
    assert body["drops"] == {"send_no_route": 5, "receive_vni": 0, "forged_encap": 0}


def test_packets_that_found_the_queue_full_are_drops_like_any_other() -> None:
    state, _, _ = running()
    (device,) = state.devices.values()
    device.kernel_drops = lambda: {"tun_queue": 7}
    assert read(state)["drops"] == {"send_no_route": 5, "receive_vni": 0, "tun_queue": 7, "forged_encap": 0}
    assert 'dataplane_drops_total{reason="tun_queue"} 7.0' in b"".join(render(state)).decode().splitlines()


def test_status_document_of_a_node_that_has_nothing_yet_has_every_key() -> None:
    state, _, _ = running()
    assert read(NodeState()).keys() == read(state).keys()
    assert read(NodeState())["ready"] is False


def test_metrics_text() -> None:
    state, _, _ = running()
    state.events["store_errors"] = 3
    state.refused["x"] = "y"
    lines = b"".join(render(state)).decode().splitlines()
    for line in (
        'dataplane_drops_total{reason="send_no_route"} 5.0',
        'dataplane_drops_total{reason="receive_vni"} 0.0',
        'dataplane_peer_tx_packets_total{peer="10.244.2.0/24"} 1.0',
        'dataplane_peer_tx_bytes_total{peer="10.244.2.0/24"} 20.0',
        'dataplane_peer_rx_packets_total{peer="10.244.2.0/24"} 3.0',
        'dataplane_peer_rx_bytes_total{peer="10.244.2.0/24"} 40.0',
        'dataplane_peer_icmp_unreachables_total{peer="10.244.2.0/24"} 0.0',
        "dataplane_ready 1.0",
        "dataplane_leases 1.0",
        "dataplane_refused_leases 1.0",
        "dataplane_lease_expiry_seconds 7200.0",
        "dataplane_store_errors_total 3.0",
        "dataplane_store_last_contact_timestamp_seconds 1e+06",
        'dataplane_workers_alive{device="flannel.1"} 2.0',
        "dataplane_tx_packets_total 9.0",
    ):
        assert line in lines, line
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_an_unreachable_peer_is_told_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    state, clock, _ = running()
    status_view.show(read(state), now_s)
    assert "ICMP" not in capsys.readouterr().out
    said = PeerUnreachable(IPv4Address("198.51.100.9"), now_s, now_s, 1200, "prohibited")
    state.devices["flannel.1"].unreachable[IPv4Address("192.0.2.2")] = said
    clock.time += 5
    (peer,) = read(state)["peers"]
    assert peer["icmp_unreachables"] == 1200
    assert peer["unreachable"] == {
        "reason": "prohibited",
        "text": "prohibited: a firewall rejects what is sent to it",
        "said_by": "198.51.100.9",
        "since": now_s,
        "last": now_s,
    }
    status_view.show(read(state), clock.time)
    row = next(line for line in capsys.readouterr().out.splitlines() if "prohibited" in line)
    told = "10.244.2.0/24 1,200 5 s ago prohibited: a firewall rejects what is sent to it; says 198.51.100.9"
    assert " ".join(row.split()) == told
    said.said_by = IPv4Address("192.0.2.1")
    status_view.show(read(state), clock.time)
    assert "says this node" in capsys.readouterr().out
    assert state.unready() == []  # anybody can forge it
    lines = b"".join(render(state)).decode().splitlines()
    assert 'dataplane_peer_icmp_unreachables_total{peer="10.244.2.0/24"} 1200.0' in lines
    assert 'dataplane_peer_unreachable{peer="10.244.2.0/24"} 1.0' in lines
    said.reason = None
    (peer,) = read(state)["peers"]
    assert (peer["icmp_unreachables"], peer["unreachable"]) == (1200, None)
    assert 'dataplane_peer_unreachable{peer="10.244.2.0/24"} 0.0' in b"".join(render(state)).decode().splitlines()


def test_every_reason_has_words() -> None:
    assert set(unreachable_words) == set(get_args(UnreachableReason))


def serve(state: NodeState, directory: Path, check: Callable[[ClientSession], Any], port: int = 0) -> None:
    async def scenario() -> None:
        server = Server(state, directory, "127.0.0.1", port)
        answering = None
        try:
            server.open()
            answering = asyncio.create_task(server.serve())
            connector = None if port else UnixConnector(str(directory / "status.sock"))
            async with ClientSession(connector=connector) as session:
                await check(session)
        finally:
            if answering is not None:
                answering.cancel()
            await server.close()

    asyncio.run(scenario())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_health_endpoints_say_what_flanneld_says(tmp_path: Path) -> None:
    state, _, _ = running()
    port = free_port()

    async def check(session: ClientSession) -> None:
        async def get(path: str) -> tuple[int, str]:
            async with session.get(f"http://127.0.0.1:{port}{path}") as response:
                return response.status, await response.text()

        assert await get("/healthz") == (200, "flanneld is running")
        assert await get("/readyz") == (200, "flanneld is ready")
        state.blockers["device"] = "flannel.1: gone"
        assert await get("/readyz") == (503, "flanneld is not ready yet\nflannel.1: gone")
        assert await get("/healthz") == (200, "flanneld is running")
        code, text = await get("/metrics")
        assert code == 200 and "dataplane_ready 0.0" in text
        assert (await get("/status"))[0] == 404

    serve(state, tmp_path, check, port)


def test_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    state, _, _ = running()

    async def never(_: ClientSession) -> None:
        raise AssertionError("it started")

    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(HostError, match=f"--healthz-port {port}"):
            serve(state, tmp_path, never, port)
    assert not (tmp_path / "status.sock").exists()


def still_open(clients: list[socket.socket]) -> int:
    """How many connections the server has not closed."""

    def alive(client: socket.socket) -> bool:
        try:
            return client.recv(4096, socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    return sum(map(alive, clients))


@pytest.mark.parametrize("listener", ["port", "socket"])
@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nX", b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_silent_clients_hold_few_connections_for_a_short_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: str, said: bytes
) -> None:
    monkeypatch.setattr(health, "look_s", 0.5)
    state, _, _ = running()
    port = free_port()

    async def wait_until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 (the server closes them)
                await asyncio.sleep(0.01)

    async def check(session: ClientSession) -> None:
        clients = []
        try:
            for _ in range(4 * health.most_connections):
                if listener == "port":
                    client = socket.create_connection(("127.0.0.1", port))
                else:
                    client = socket.socket(socket.AF_UNIX)
                    await asyncio.to_thread(client.connect, str(tmp_path / "status.sock"))
                clients.append(client)
                client.send(said)
                await asyncio.sleep(0)
            await wait_until(lambda: still_open(clients) <= health.most_connections)
            async with session.get(f"http://127.0.0.1:{port}/healthz") as response:
                assert response.status == 200
            assert await asyncio.to_thread(status_command.fetch, tmp_path / "status.sock") == read(state)
            await wait_until(lambda: still_open(clients) == 0)
        finally:
            for client in clients:
                client.close()

    serve(state, tmp_path, check, port)


def test_status_socket_is_its_owners_and_replaces_a_stale_one(tmp_path: Path) -> None:
    state, _, _ = running()
    path = tmp_path / "status.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    async def check(session: ClientSession) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with session.get("http://localhost/status") as response:
            assert (await response.json())["backend"] == "vxlan"

    serve(state, tmp_path, check)
    assert not path.exists()


def test_status_command_prints_what_the_daemon_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, _, _ = running()

    async def check(_: ClientSession) -> None:
        for as_json in (True, False):
            args = argparse.Namespace(run_dir=tmp_path, json=as_json)
            assert await asyncio.to_thread(status_command.run, args) == 0

    serve(state, tmp_path, check)
    text = capsys.readouterr().out
    assert json.loads(text[: text.index("\n}") + 2])["ready"] is True
    for word in (
        "dataplane is ready",
        "10.244.2.0/24",
        "192.0.2.2",
        "02:00:00:ab:00:02",
        "no node holds the destination",
    ):
        assert word in text, word
    assert "receive_vni" not in text[text.index("\n}") :]


def test_refused_leases_by_the_thousand_do_not_fill_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    state, _, _ = running()
    state.refused = {f"bad{number:04}": "no subnet" for number in range(5000)}
    status_view.show(read(state), now_s)
    text = capsys.readouterr().out
    assert text.count("no subnet") == 20
    assert "4980 more" in text


def test_status_without_a_daemon_says_so(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no daemon is running"):
        status_command.run(argparse.Namespace(run_dir=tmp_path, json=True))
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "status.sock"))
    with pytest.raises(HostError, match="no daemon is running"):
        status_command.run(argparse.Namespace(run_dir=tmp_path, json=True))


def test_every_drop_reason_has_a_word() -> None:
    header = (root / "csrc" / "dataplane.h").read_text()
    reasons = {
        line.split()[1].rstrip(";").removeprefix("drop_") for line in header.splitlines() if "uint64_t drop_" in line
    }
    kernels = {"tun_queue", "send_neighbour", "device_send", "device_receive"}
    assert reasons | kernels | {"forged_encap"} == set(status_view.drop_words)


def test_every_drop_reason_is_in_the_table_of_losses() -> None:
    table = (root / "docs" / "losses.md").read_text()
    for reason in (*status_view.drop_words, *status_view.host_drop_words):
        assert f"| `{reason}` |" in table


@pytest.mark.parametrize("expires_in, text", [(None, "no end"), (-1, "expired"), (59, "59 s"), (7260, "2 h 1 min")])
def test_time_left(expires_in: float | None, text: str) -> None:
    expires = None if expires_in is None else now_s + expires_in
    assert text in status_view.time_left(expires, now_s)


def test_systemd_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        notify("READY=1")
        assert listener.recv(64, socket.MSG_DONTWAIT) == b"READY=1"
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with pytest.raises(HostError):
        notify("READY=1")


@pytest.mark.parametrize(
    ("environment", "period"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(environment: dict[str, str], period: float | None) -> None:
    assert watchdog_period(environment) == period
