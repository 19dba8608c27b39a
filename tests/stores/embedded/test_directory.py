"""Where the embedded store may be: no file system of the network, and nothing that somebody else can read, hold or replace."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import pytest

from dataplane.errors import StoreError
from dataplane.stores.embedded import directory
from dataplane.stores.embedded.store import file_name
from tests.stores.embedded.machine import Machine, node, run


def test_nobody_else_can_read_the_store(tmp_path: Path) -> None:
    """Who can read a file can lock it, and hold up every daemon."""

    def modes(machine: Machine) -> dict[str, int]:
        return {path.name: path.stat().st_mode & 0o777 for path in machine.directory.iterdir()}

    private = dict.fromkeys((file_name, f"{file_name}-wal", f"{file_name}-shm"), 384)

    async def test(machine: Machine) -> None:
        store = machine.store()
        await store.acquire(node(1), None)
        assert machine.directory.stat().st_mode & 0o777 == 0o700
        assert modes(machine) == private
        for path in machine.directory.iterdir():
            path.chmod(0o666)
        machine.directory.chmod(0o777)
        await machine.store().acquire(node(2), None)
        assert machine.directory.stat().st_mode & 0o777 == 0o755
        assert modes(machine) == private

    mask = os.umask(0)
    try:
        run(tmp_path, test)
    finally:
        os.umask(mask)


@pytest.mark.parametrize("name", [file_name, f"{file_name}-wal", f"{file_name}-shm"])
@pytest.mark.parametrize("kind", ["symlink", "link", "another's"])
def test_a_store_that_somebody_else_can_hold_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    async def test(machine: Machine) -> None:
        machine.directory.mkdir()
        victim = tmp_path / "victim"
        victim.write_bytes(b"")
        path = machine.directory / name
        if kind == "symlink":
            path.symlink_to(victim)
        elif kind == "link":
            path.hardlink_to(victim)
        else:
            path.touch()
            os.chown(path, 65534, 65534)
        with pytest.raises(StoreError, match=f"lease directory {machine.directory}: {path} (is|has|belongs)"):
            await machine.store().acquire(node(1), None)
        assert victim.stat().st_size == 0 and victim.stat().st_mode & 0o777 == 0o644

    run(tmp_path, test)


def test_anothers_directory_and_one_for_many_users_are_refused(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        machine.directory.mkdir()
        machine.directory.chmod(0o1777)
        with pytest.raises(StoreError, match="written to by others"):
            await machine.store().acquire(node(1), None)
        os.chown(machine.directory, 65534, 65534)
        machine.directory.chmod(0o755)
        with pytest.raises(StoreError, match="belongs to user 65534"):
            await machine.store().acquire(node(1), None)
        assert list(machine.directory.iterdir()) == []

    run(tmp_path, test)


def test_a_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        machine.directory.write_text("a file")
        with pytest.raises(StoreError, match=f"lease directory {machine.directory}"):
            await machine.store().acquire(node(1), None)

    run(tmp_path, test)


@pytest.mark.parametrize(("magic", "name"), [(0x6969, "NFS"), (0xFF534D42, "CIFS"), (0x01021997, "9P")])
def test_network_file_systems_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, magic: int, name: str
) -> None:
    class Libc:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        @staticmethod
        def statfs(_path: bytes, buffer: Any) -> int:
            ctypes.c_long.from_buffer(buffer).value = magic
            return 0

    with monkeypatch.context() as patched:
        patched.setattr(ctypes, "CDLL", Libc)
        with pytest.raises(StoreError, match=f"{tmp_path} is on {name}.*allowed is a local file system"):
            directory.refuse_network_file_system(tmp_path)
    directory.refuse_network_file_system(tmp_path)
    with pytest.raises(OSError):
        directory.refuse_network_file_system(tmp_path / "none")
