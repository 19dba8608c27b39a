"""Makes the daemon's calls of the host fail, one at a time, in the daemon's own process.

Every way from `dataplane.host` and `dataplane.bpf.calls` to the kernel is wrapped where it leaves our code: netlink requests, bpf(2),
sockets, ioctls, the TUN library, files, tools. A call is known by its *site*, the chain of our functions that led to it, so a
call that is added has a site of its own without anybody naming it. What must stay true: a module that begins to use another
way to the host makes `install` fail until that way is wrapped here or said to be none.
"""

from __future__ import annotations

import ast
import asyncio
import fcntl as real_fcntl
import importlib
import os
import pkgutil
import socket as real_socket
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytun as real_pytun
from pyroute2 import NetlinkError

import dataplane
import dataplane.host
from dataplane.bpf import calls
from dataplane.bpf.calls import BpfError
from dataplane.host import command, requests

Site = tuple[str, ...]

# What host modules may import that asks nothing of the kernel, or is wrapped here.
harmless = {
    *(
        "__future__",
        "array",
        "base64",
        "collections",
        "concurrent",
        "contextlib",
        "dataclasses",
        "dataplane",
        "enum",
        "errno",
        "functools",
    ),
    *("hashlib", "ipaddress", "logging", "re", "shutil", "struct", "sys", "typing", "zlib"),
    "select",  # looks at descriptors that we hold
}
wrapped = {"asyncio", "ctypes", "fcntl", "os", "pathlib", "pyroute2", "pytun", "socket"}
# Of `os` and `socket`: neither asks for anything that could be refused while we run.
_pure = {"close", "fdopen", "strerror", "uname", "inet_ntop", "inet_pton", "htons", "ntohs", "geteuid"}
_root = str(Path(dataplane.__file__).parent)
_here = __file__


class Faults:
    """Which sites there are, and which of them fail now.

    Attributes:
        seen: every site met, with how often, in the order of the first time.
        hits: how often each armed site was made to fail.
    """

    def __init__(self) -> None:
        self.seen: dict[Site, int] = {}
        self.hits: dict[Site, int] = {}
        self._armed: dict[Site, tuple[int, int]] = {}
        self._local = threading.local()
        self._lock = threading.Lock()

    def arm(self, errors: Mapping[Site, int], times: int) -> None:
        """Make each of these sites fail `times` times with its errno, and no other any more."""
        with self._lock:
            self._armed = {site: (error, times) for site, error in errors.items()}
            self.hits = dict.fromkeys(errors, 0)

    def over(self) -> bool:
        """Say whether every armed site has failed as often as it was to."""
        with self._lock:
            return not self._armed

    def disarm(self) -> None:
        """Let everything succeed."""
        self.arm({}, 0)

    def check(self, call: str) -> int:
        """Note a call of the host; return the errno with which it is to fail, 0 if it is not to."""
        site = (*getattr(self._local, "outer", ()), *_chain(), call)
        with self._lock:
            self.seen[site] = self.seen.get(site, 0) + 1
            error, left = self._armed.get(site, (0, 0))
            if left:
                self.hits[site] += 1
                self._armed[site] = (error, left - 1)
                if left == 1:
                    del self._armed[site]
            return error

    def fail(self, call: str) -> None:
        """The same, raising `OSError`."""
        error = self.check(call)
        if error:
            raise OSError(error, os.strerror(error))

    def led_by(self, chain: Site, request: Callable[..., Any]) -> Callable[..., Any]:
        """Return a request for another thread, whose calls count as `chain`'s."""

        def run(*args: Any) -> Any:
            self._local.outer = chain
            try:
                return request(*args)
            finally:
                self._local.outer = ()

        return run


def _chain() -> Site:
    """The functions of ours that are under way in this thread, outermost first, each with its line."""
    found = []
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_root) and name != _here:
            found.append(f"{Path(name).stem}.{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(reversed(found))


def install(faults: Faults) -> None:
    """Wrap every way to the host; raises `AssertionError` naming an import that is not known here."""
    modules = [calls]
    for found in pkgutil.walk_packages(dataplane.host.__path__, "dataplane.host."):
        modules.append(importlib.import_module(found.name))
    for module in modules:
        _look_for_other_ways(module)
        for name, value in list(vars(module).items()):
            if value is real_socket:
                setattr(module, name, _Socket(faults))
            elif value is real_fcntl or value is os:
                setattr(module, name, _Functions(faults, value))
            elif value is real_pytun:
                setattr(module, name, _Pytun(faults))
            elif isinstance(value, Path):
                setattr(module, name, _path(faults)(value))
    _wrap_netlink(faults)
    _wrap_bpf(faults)
    _wrap_tools(faults)


def _look_for_other_ways(module: ModuleType) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            top = name.partition(".")[0]
            assert top in harmless | wrapped, (
                f"{module.__name__} imports {name}: wrap it in {_here}, or call it harmless"
            )


class _Functions:
    """A module whose functions may fail."""

    def __init__(self, faults: Faults, real: ModuleType) -> None:
        self._faults = faults
        self._real = real

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        if name in _pure or isinstance(value, type) or not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            self._faults.fail(name)
            return value(*args, **kwargs)

        return call


class _Socket(_Functions):
    """The module `socket`, with sockets whose methods may fail."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(faults, real_socket)

        class Socket(real_socket.socket):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                faults.fail("socket")
                super().__init__(*args, **kwargs)

        def method(name: str) -> Callable[..., Any]:
            real = getattr(real_socket.socket, name)

            def call(self: Any, *args: Any) -> Any:
                faults.fail(name)
                return real(self, *args)

            return call

        for name in ("bind", "connect", "getsockopt", "listen", "recv", "sendto", "setsockopt"):
            setattr(Socket, name, method(name))
        self.socket = Socket


class _Pytun(_Functions):
    """The module `pytun`, with devices that may fail."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(faults, real_pytun)

        class Device:  # the real one takes no subclass
            def __init__(self, **kwargs: Any) -> None:
                faults.fail("TunTapDevice")
                self._device = real_pytun.TunTapDevice(**kwargs)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._device, name)

            def up(self) -> None:
                faults.fail("up")
                self._device.up()

        self.TunTapDevice = Device


def _path(faults: Faults) -> type[Path]:
    class FaultyPath(type(Path())):  # type: ignore[misc]
        def read_text(self, *args: Any, **kwargs: Any) -> str:
            faults.fail("read_text")
            return str(super().read_text(*args, **kwargs))

        def write_text(self, *args: Any, **kwargs: Any) -> int:
            faults.fail("write_text")
            return int(super().write_text(*args, **kwargs))

    return FaultyPath


class _Netlink:
    """An IPRoute whose requests may be refused."""

    def __init__(self, faults: Faults, real: Any) -> None:
        self._faults = faults
        self._real = real

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        if name == "close" or not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            what = args[0] if args and isinstance(args[0], str) else ""
            error = self._faults.check(f"netlink {name} {what}".rstrip())
            if error:
                raise NetlinkError(error)
            return value(*args, **kwargs)

        return call


def _wrap_netlink(faults: Faults) -> None:
    open_netlink = requests._open_netlink

    def opened() -> Any:
        faults.fail("open netlink")
        return _Netlink(faults, open_netlink())

    requests._open_netlink = opened
    ask = requests.Netlink.ask

    async def asked(self: Any, what: str, request: Any, absent: tuple[int, ...] = ()) -> Any:
        return await ask(self, what, faults.led_by(_chain(), request), absent)

    requests.Netlink.ask = asked  # type: ignore[method-assign]


def _wrap_bpf(faults: Faults) -> None:
    real = calls._bpf

    def call(number: int, attr: bytes, what: str) -> int:
        error = faults.check(f"bpf {number}")
        if error:
            raise BpfError(what, error)
        return real(number, attr, what)

    calls._bpf = call


def _wrap_tools(faults: Faults) -> None:
    """A tool fails as tools do, by its exit code and a line; where memory is short it does not even start."""

    class Asyncio:
        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

        async def create_subprocess_exec(self, path: str, *words: str, **kwargs: Any) -> Any:
            error = faults.check(f"run {Path(path).name} {words[0] if words else ''}")
            start: Callable[..., Awaitable[Any]] = asyncio.create_subprocess_exec
            if not error:
                return await start(path, *words, **kwargs)
            text = os.strerror(error)
            if text == os.strerror(12):
                raise OSError(error, text)
            return await start("/bin/sh", "-c", 'echo "$0" >&2; exit 1', text, **kwargs)

    command.asyncio = Asyncio()  # type: ignore[assignment]
