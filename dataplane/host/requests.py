"""Asking the kernel through rtnetlink, one question at a time.

All requests go through one worker thread around pyroute2's synchronous IPRoute: its asynchronous twin does not
work under uvloop. What must stay true: every refusal is a `HostError` that says what was asked, and asking for what
is already so (an address that is there, a route that is gone) is no error.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from pyroute2 import IPRoute, NetlinkError
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

from dataplane.errors import HostError, host_error
from dataplane.host.changes import watch_changes

Result = TypeVar("Result")

_listings = 5
families = {4: socket.AF_INET, 6: socket.AF_INET6}


class Netlink:
    """The netlink socket of one network namespace. Every method raises `HostError` when refused."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dataplane-netlink")
        self._netlink: IPRoute | None = None
        self._port = 0

    async def close(self) -> None:
        """Close the netlink socket and end the worker thread."""

        def close() -> None:
            if self._netlink is not None:
                self._netlink.close()
                self._netlink = None

        await asyncio.get_running_loop().run_in_executor(self._thread, close)
        self._thread.shutdown()

    def changes(self) -> AsyncIterator[None]:
        """Yield whenever a link, an address, a route or an IPsec policy changed, but not by this object's requests alone."""
        return watch_changes(lambda: self._port)

    async def ask(self, what: str, request: Callable[[IPRoute], Result], absent: tuple[int, ...] = ()) -> Result:
        """Run a request in the netlink thread and name it in the `HostError`, if the kernel refuses, as "cannot <what>".

        An errno out of `absent` means that there was nothing to remove, and gives None.
        """

        def run() -> Any:
            try:
                if self._netlink is None:
                    self._netlink = _open_netlink()
                    # The answer to any question shows by which port it was asked.
                    self._port = next(iter(self._netlink.link("get", ifname="lo")))["header"]["pid"]
                for _ in range(_listings):
                    with suppress(NetlinkDumpInterrupted):  # it changed while the kernel listed it
                        return request(self._netlink)
                raise HostError(f"cannot {what}: it changes faster than the kernel lists it")
            except NetlinkError as error:
                if error.code in absent:
                    return None
                raise host_error(
                    f"cannot {what}: {os.strerror(error.code)} (errno {error.code})", error.code
                ) from error
            except OSError as error:
                raise host_error(f"cannot {what}: {error.strerror or error}", error.errno) from error

        result: Result = await asyncio.get_running_loop().run_in_executor(self._thread, run)
        return result


def _open_netlink() -> IPRoute:
    """With strict checks the kernel (Linux 4.20) heeds the table and link that a dump asks for."""
    try:
        return IPRoute(strict_check=True)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return IPRoute()


def of_family(version: int, dump: Callable[..., Any], **wanted: int) -> list[Any]:
    """Dump one IP version. A kernel without IPv6 answers a question about it with all that it has."""
    family = families[version]
    # pyroute2 by default asks for everything and filters in Python: 0.4 s for 10,000 routes of other links. With a
    # filter of our own it passes the keywords on, and the kernel filters.
    rows = dump("dump", dump_filter={}, family=family, **wanted)
    return [row for row in rows if row["family"] == family]
