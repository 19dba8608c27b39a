"""The side that hands over: a daemon that runs, asked by the next one.

What must stay true: who is neither root nor our own user gets nothing; whatever goes wrong before the next one forwards,
this one goes on as if nobody had asked; packets of a flow keep their order, since this one has sent all that it read before
the next one reads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dataplane.core import table_layout
from dataplane.keepers.device import TunDevice
from dataplane.keepers.opening import Opener
from dataplane.observe.health import open_socket
from dataplane.takeover import conversation
from dataplane.takeover.conversation import Broken, blob, peer_of, say
from dataplane.takeover.descriptors import names_of
from dataplane.takeover.form import Carried, encode, form

log = logging.getLogger(__name__)

patience_s = 30.0  # for the next one to open and set up everything, on a busy machine
last_word_s = 10.0


class Giving:
    """Listens in the run directory for the next daemon.

    Args:
        carried: returns the state to be handed on.
        held: returns descriptors of locks and listeners, by name.
        handed_over: called with the next daemon's process id (0: not visible) when it forwards.
        given: the listener, as the daemon before us had it.
    """

    def __init__(
        self,
        run_dir: Path,
        opener: Opener,
        carried: Callable[[], Carried],
        held: Callable[[], Mapping[str, int]],
        handed_over: Callable[[int], None],
        given: socket.socket | None = None,
    ) -> None:
        self._path = run_dir / conversation.socket_name
        self._opener = opener
        self._carried = carried
        self._held = held
        self._handed_over = handed_over
        self._listener = given
        if given is not None:
            given.listen()  # from now on it shows our process id (net/unix/af_unix.c, unix_listen)
            given.setblocking(False)
        self.is_handed_over = False

    def open(self) -> socket.socket:
        """Listen; raises `HostError`."""
        if self._listener is None:
            self._listener = open_socket(self._path, socket.SOCK_SEQPACKET)
            self._listener.setblocking(False)
        return self._listener

    def close(self) -> None:
        """Listen no more."""
        if self._listener is not None:
            self._listener.close()
            if not self.is_handed_over:
                self._path.unlink(missing_ok=True)

    async def serve(self) -> None:
        """Answer whoever asks, one after the other, for ever."""
        while True:
            connection = await self._accept()
            with connection:
                pid, uid = peer_of(connection)
                if uid not in (0, os.geteuid()):
                    log.warning("user %d (pid %d) may not take over from us; allowed: root and our own user", uid, pid)
                    continue
                try:
                    await self._hand_over(connection, pid)
                except Broken as error:
                    log.warning("nobody takes over: %s", error)

    async def _accept(self) -> socket.socket:
        listener = self.open()
        while True:
            await _readable(listener)
            try:
                connection, _ = listener.accept()
            except OSError:
                continue  # it has gone again, or was for somebody else
            connection.setblocking(False)
            return connection

    async def _hand_over(self, connection: socket.socket, pid: int) -> None:
        asked = await _hear(connection, last_word_s, "take over")
        if asked.get("form") != form or asked.get("layout") != table_layout:
            say(
                connection,
                "refused",
                reason=f"this daemon hands over in form {form}, asked for was {asked.get('form')}",
            )
            raise Broken(f"the next daemon (pid {pid}) reads another form of what would be handed over")
        given = await self._give_all(connection)
        ready = await _hear(connection, patience_s, "ready", "cannot")
        if ready["word"] == "cannot":
            raise Broken(f"the next daemon (pid {pid}) cannot: {ready.get('reason')!s:.400}")
        with self._opener.open_ones() as devices:
            if devices != given:
                raise Broken("our devices were opened anew meanwhile")
        try:
            for device in devices:
                device.forwarder.stop()
            _say_with(connection, "stopped", encode(self._carried()))
            await _hear(connection, last_word_s, "forwarding")
            say(connection, "yours")
        except BaseException:
            for device in devices:
                device.forwarder.resume()
            raise
        self.is_handed_over = True
        self._handed_over(pid)

    async def _give_all(self, connection: socket.socket) -> tuple[TunDevice, ...]:
        named = list(self._held().items())
        with self._opener.open_ones() as devices:
            pass
        for device in devices:
            named += names_of(device.plan.name, device.descriptors)
        for at in range(0, len(named), conversation.most_descriptors):
            some = named[at : at + conversation.most_descriptors]
            say(connection, "descriptors", [fd for _, fd in some], names=[name for name, _ in some])
            await asyncio.sleep(0)
        _say_with(connection, "state", encode(self._carried()))
        return devices


def _say_with(connection: socket.socket, word: str, content: bytes) -> None:
    descriptor = blob(content)
    try:
        say(connection, word, [descriptor])
    finally:
        os.close(descriptor)


async def _hear(connection: socket.socket, patience: float, *words: str) -> dict[str, Any]:
    try:
        async with asyncio.timeout(patience):
            await _readable(connection)
    except TimeoutError:
        raise Broken(f"the next daemon was silent for {patience:.0f} s") from None
    try:
        return conversation.read(connection.recv(conversation.most_bytes), words)
    except OSError as error:
        raise Broken(f"the next daemon is gone: {error.strerror}") from error


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(sock, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(sock)
