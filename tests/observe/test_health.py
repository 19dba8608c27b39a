"""The health and status listeners, real ones on loopback and on a unix socket."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector

from dataplane.cli import status as status_command
from dataplane.errors import HostError
from dataplane.observe import health
from tests.observe.node import read, running, serve


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
        async with asyncio.timeout(200):
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


def test_who_was_accepted_is_answered_also_when_we_end(tmp_path: Path) -> None:
    """As a daemon does whose listener another one has by then."""
    state, _, _ = running()

    async def scenario() -> bytes:
        server = health.Server(state, tmp_path, "127.0.0.1", 0)
        server.open()
        answering = asyncio.create_task(server.serve())
        async with ClientSession(connector=UnixConnector(str(tmp_path / "status.sock"))) as session:
            assert (await session.get("http://x/status")).status == 200
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "status.sock"))
        while not any(bound._server.connections for bound in server._bounds.values()):  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0)
        answering.cancel()
        closing = asyncio.create_task(server.close())
        await asyncio.sleep(0)
        writer.write(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read()
        await closing
        writer.close()
        return answer

    assert asyncio.run(scenario()).startswith(b"HTTP/1.1 200 OK")
