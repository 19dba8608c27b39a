"""A real etcd server on loopback, and a relay in front of it that cuts and freezes connections.

What must stay true: what is started here is ended here, by its process id, also after a failure. Waiting is for
conditions: the server is up when it answers.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from dataplane.model import LeaseAttrs
from dataplane.stores.etcd.access import read_access
from dataplane.stores.etcd.client import Timing
from dataplane.stores.etcd.store import EtcdStore

quick = Timing(call=2.0, ping=1.0, keepalive=0.2, keepalive_timeout=1.0)


def free_ports(number: int) -> list[int]:
    """Ports that nobody uses now; held together so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def attrs(last: int, third: int = 2) -> LeaseAttrs:
    return LeaseAttrs(IPv4Address(f"192.0.{third}.{last}"))


class Server:
    """etcd with its data below `directory`; `scheme` https needs `tls` (etcd's flags)."""

    def __init__(self, directory: Path, *, scheme: str = "http", tls: tuple[str, ...] = (), ctl: tuple[str, ...] = ()):
        self.directory = directory
        self.data = directory / "data"
        self.port, self.peer_port = free_ports(2)
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self._tls = tls
        self._ctl = ctl
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and return when it answers."""
        peer = f"http://127.0.0.1:{self.peer_port}"
        words = ["etcd", "--name=one", f"--data-dir={self.data}", f"--listen-client-urls={self.url}"]
        words += [f"--advertise-client-urls={self.url}", f"--listen-peer-urls={peer}"]
        words += [f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=one={peer}"]
        words += ["--grpc-keepalive-min-time=50ms", "--unsafe-no-fsync", *self._tls]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        try:
            for _ in range(100):
                # Each try waits for the port by itself, up to its dial timeout.
                if self._ctl_run("endpoint", "status", "--dial-timeout=1s", "--command-timeout=1s").returncode == 0:
                    return
                if self._process.poll() is not None:
                    break
            raise AssertionError(f"etcd did not start: {(self.directory / 'log').read_text()[-2000:]}")
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def freeze(self) -> None:
        """Stop it, and return when all its threads stand still."""
        assert self._process is not None
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def restore(self, backup: Path) -> None:
        """Replace the (ended) server's data by a backup."""
        shutil.rmtree(self.data)
        peer = f"http://127.0.0.1:{self.peer_port}"
        words = ["etcdctl", "snapshot", "restore", str(backup), f"--data-dir={self.data}", "--name=one"]
        words += [f"--initial-cluster=one={peer}", f"--initial-advertise-peer-urls={peer}"]
        subprocess.run(words, check=True, capture_output=True, env={**os.environ, "ETCDCTL_API": "3"})

    def ctl(self, *words: str, check: bool = True) -> str:
        """Run etcdctl and return what it prints."""
        done = self._ctl_run(*words)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def _ctl_run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["etcdctl", f"--endpoints={self.url}", *self._ctl, *words]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=200)


@dataclass(frozen=True, slots=True)
class Place:
    """A prefix in a server."""

    server: Server
    prefix: str

    def configure(self, **members: Any) -> None:
        members = {"Network": "10.5.0.0/16", **members}
        self.server.ctl("put", f"{self.prefix}/config", json.dumps(members))

    def put(self, key: str, value: str, *words: str) -> None:
        self.server.ctl("put", f"{self.prefix}/subnets/{key}", value, *words)

    def delete(self, key: str) -> None:
        self.server.ctl("del", f"{self.prefix}/subnets/{key}")

    def lease_id(self, key: str) -> int:
        """The etcd lease that the key hangs on; 0 for none, -1 for no such key."""
        found = json.loads(self.server.ctl("get", f"{self.prefix}/subnets/{key}", "-w", "json"))
        return -1 if "kvs" not in found else found["kvs"][0].get("lease", 0)

    def leases(self) -> int:
        """How many etcd leases there are."""
        return len(json.loads(self.server.ctl("lease", "list", "-w", "json")).get("leases") or ())

    def raw(self) -> str:
        """Every key and value below the prefix, as etcdctl prints them."""
        return self.server.ctl("get", "--prefix", f"{self.prefix}/subnets")

    def store(self, *, endpoints: str = "", timing: Timing = quick, **access: str) -> EtcdStore:
        return EtcdStore(read_access(endpoints or self.server.url, self.prefix, **access), timing=timing)


class Relay:
    """A TCP relay in front of a server; the event loop's own, so tests command it without threads.

    Attributes:
        flowing: cleared, it takes connections and bytes and passes nothing on.
        refusing: it breaks every new connection at once.
        delay_s: how long it keeps each piece before it passes it on.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._to = port
        self._host = host
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.refusing = False
        self.delay_s = 0.0
        self._pairs: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._accept, self._host, 0)
        self.url = f"http://{self._host}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection; new ones are taken."""
        for writer in self._pairs:
            writer.transport.abort()
        self._pairs.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.refusing:
                raise ConnectionRefusedError
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._pairs += [writer, there_writer]
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self.flowing.wait()
                await asyncio.sleep(self.delay_s)
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()
