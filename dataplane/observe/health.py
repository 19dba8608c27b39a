"""HTTP: /healthz, /readyz and /metrics on TCP when asked for, the status document on a unix socket always.

What must stay true: paths, codes and first lines are flanneld's (flannel main.go, section 7.4 of the facts), the
unix socket can be opened by its owner only, and a port that cannot be bound ends the start with a clear error.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from aiohttp import web

from dataplane.errors import HostError
from dataplane.observe.state import NodeState, status_socket
from dataplane.observe.status import document

prometheus_type = "text/plain; version=0.0.4; charset=utf-8"


def health_app(state: NodeState) -> web.Application:
    """Return the application behind --healthz-port."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="flanneld is running")

    async def readyz(_: web.Request) -> web.Response:
        reasons = state.unready()
        if reasons:
            return web.Response(status=503, text="\n".join(["flanneld is not ready yet", *reasons]))
        return web.Response(text="flanneld is ready")

    async def metrics(_: web.Request) -> web.Response:
        # Imported at the first scrape: most nodes start without one, and start must be quick.
        from dataplane.observe.metrics import render

        return web.Response(body=render(state), headers={"Content-Type": prometheus_type})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


def status_app(state: NodeState) -> web.Application:
    """Return the application behind the unix socket: the status document at /status."""

    async def status(_: web.Request) -> web.Response:
        return web.json_response(document(state))

    app = web.Application()
    app.router.add_get("/status", status)
    return app


class Server:
    """Both listeners, opened and closed together."""

    def __init__(self, state: NodeState, run_dir: Path, healthz_ip: str, healthz_port: int) -> None:
        self._state = state
        self._socket = run_dir / status_socket
        self._address = (healthz_ip, healthz_port)
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        """Listen; raises `HostError` naming the address that cannot be bound."""
        runner = await self._runner(status_app(self._state))
        await web.SockSite(runner, self._open_socket()).start()
        ip, port = self._address
        if port:
            runner = await self._runner(health_app(self._state))
            try:
                await web.TCPSite(runner, ip, port).start()
            except OSError as error:
                raise HostError(f"cannot listen on --healthz-ip {ip} --healthz-port {port}: {error}") from error

    def _open_socket(self) -> socket.socket:
        # The run directory's lock is ours, so whoever left this socket is gone.
        self._socket.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        mask = os.umask(0o177)
        try:
            listener.bind(str(self._socket))
        except OSError as error:
            listener.close()
            raise HostError(f"cannot listen on {self._socket}: {error.strerror or error}") from error
        finally:
            os.umask(mask)
        return listener

    async def _runner(self, app: web.Application) -> web.AppRunner:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def close(self) -> None:
        """Stop listening and remove the socket."""
        for runner in self._runners:
            await runner.cleanup()
        self._socket.unlink(missing_ok=True)
