"""HTTP: /healthz, /readyz and /metrics on TCP when asked for, the status document on a unix socket always.

What must stay true: paths, codes and first lines are flanneld's (flannel main.go, section 7.4 of the facts), the
unix socket can be opened by its owner only, and a port that cannot be bound ends the start with a clear error; clients,
however many, slow or silent, hold a bounded number of connections for a bounded time, and never keep out a new one.
Listening (`open`) is apart from answering (`serve`), because only the latter loads the HTTP library.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dataplane.errors import HostError
from dataplane.observe.state import NodeState, status_socket
from dataplane.observe.status import document
from dataplane.runtime.pieces import in_turns
from dataplane.runtime.private_files import opened_directory

if TYPE_CHECKING:
    from aiohttp import web

most_connections = 64  # of each listener
look_s = 5.0  # a connection that was there at the last look is closed: answers take milliseconds
last_answers_s = 1.0
prometheus_type = "text/plain; version=0.0.4; charset=utf-8"


def health_app(state: NodeState) -> web.Application:
    """Return the application behind --healthz-port."""
    from aiohttp import web

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="flanneld is running")

    async def readyz(_: web.Request) -> web.Response:
        reasons = state.unready()
        if reasons:
            return web.Response(status=503, text="\n".join(["flanneld is not ready yet", *reasons]))
        return web.Response(text="flanneld is ready")

    async def metrics(_: web.Request) -> web.Response:
        await state.recount()
        # Imported at the first scrape: most nodes start without one, and start must be quick.
        from dataplane.observe.metrics import render

        async with busy:
            body = await in_turns(render(state))
            await state.may_be_told()
        return web.Response(body=body, headers={"Content-Type": prometheus_type})

    busy = asyncio.Lock()  # one answer after the other, or many would make each turn long
    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


def status_app(state: NodeState) -> web.Application:
    """Return the application behind the unix socket: the status document at /status."""
    from aiohttp import web

    async def status(_: web.Request) -> web.Response:
        await state.recount()
        async with busy:
            body = await in_turns(document(state))
            await state.may_be_told()
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    busy = asyncio.Lock()
    app = web.Application()
    app.router.add_get("/status", status)
    return app


class Server:
    """Both listeners, opened and closed together.

    Args:
        given: listeners that the daemon before us had, by name: "status", "health"; ours from now on.
    """

    def __init__(
        self,
        state: NodeState,
        run_dir: Path,
        healthz_ip: str,
        healthz_port: int,
        given: Mapping[str, socket.socket] | None = None,
    ) -> None:
        self._state = state
        self._path = run_dir / status_socket
        self._address = (healthz_ip, healthz_port)
        self._status: socket.socket | None = None
        self._health: socket.socket | None = None
        self._bounds: dict[socket.socket, _Bound] = {}
        self._given = dict(given or {})
        self.is_handed_over = False  # then the socket's name is another daemon's

    def open(self) -> None:
        """Listen, so that callers can connect and wait; raises `HostError` naming what cannot be bound."""
        health, status = self._given.pop("health", None), self._given.pop("status", None)
        if health is not None and health.getsockname()[:2] != self._address:
            health.close()
            health = None
        if self._address[1]:
            self._health = health or _open_port(*self._address)
        self._status = status or open_socket(self._path)

    def listeners(self) -> dict[str, socket.socket]:
        """Both, as far as they are open, by name."""
        both = {"status": self._status, "health": self._health}
        return {name: listener for name, listener in both.items() if listener is not None}

    async def serve(self) -> None:
        """Answer until cancelled; what has failed may be called again."""
        for listener, make in ((self._status, status_app), (self._health, health_app)):
            if listener is not None and listener not in self._bounds:
                self._bounds[listener] = await _attach(make(self._state), listener)
        while True:
            await asyncio.sleep(look_s)
            for bound in self._bounds.values():
                bound.close_stale()

    async def close(self) -> None:
        """Stop listening and remove the socket."""
        for bound in self._bounds.values():
            await bound.close()
        for listener in (self._status, self._health):
            if listener is not None:
                listener.close()
        if self._status is not None and not self.is_handed_over:
            self._path.unlink(missing_ok=True)


class _Bound:
    """One listener's connections, as many as are allowed; a new one takes the place of the oldest."""

    def __init__(self, runner: web.AppRunner, server: web.Server) -> None:
        self._runner = runner
        self._server = server
        self._listening: asyncio.Server | None = None
        self._seen: set[web.RequestHandler] = set()

    async def listen(self, listener: socket.socket) -> None:
        self._listening = await asyncio.get_running_loop().create_server(self._accept, sock=listener)

    def _accept(self) -> web.RequestHandler:
        connections = self._server.connections
        for oldest in connections[: max(0, len(connections) - most_connections + 1)]:
            oldest.force_close()
        return self._server()

    def close_stale(self) -> None:
        """Close the connections that were there at the last look."""
        for connection in self._seen.intersection(self._server.connections):
            connection.force_close()
        self._seen = set(self._server.connections)

    async def close(self) -> None:
        """Accept no more; who was accepted gets his answer if he asks soon: another daemon may have the listener by now, and
        a probe is to see none of that."""
        if self._listening is not None:
            self._listening.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(last_answers_s):
                while self._server.connections:  # noqa: ASYNC110 (it tells nobody)
                    await asyncio.sleep(last_answers_s / 100)
        await self._runner.cleanup()


async def _attach(app: web.Application, listener: socket.socket) -> _Bound:
    from aiohttp import web

    async def is_the_only_one(_: web.Request, response: web.StreamResponse) -> None:
        response.force_close()  # so that a connection that stands has no answer yet

    app.on_response_prepare.append(is_the_only_one)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    assert runner.server is not None  # noqa: S101 (set up)
    bound = _Bound(runner, runner.server)
    await bound.listen(listener)
    return bound


def _open_port(ip: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        return socket.create_server((ip, port), family=family, backlog=128)
    except OSError as error:
        text = f"cannot listen on --healthz-ip {ip} --healthz-port {port}: {error.strerror or error}"
        raise HostError(text) from error


def open_socket(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """Listen at a path in the run directory, for our own user alone; raises `HostError`."""
    listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        with opened_directory(path.parent) as directory:
            # The run directory's lock is ours, so whoever left this socket is gone.
            with suppress(FileNotFoundError):
                os.unlink(path.name, dir_fd=directory)
            listener.bind(str(path))
            # Bound by its path, as there is no bindat(2); it must have come to be where we looked.
            os.stat(path.name, dir_fd=directory, follow_symlinks=False)
        listener.listen(16)
    except OSError as error:
        listener.close()
        raise HostError(f"cannot listen on {path}: {error.strerror or error}") from error
    finally:
        os.umask(mask)
    return listener
