"""The embedded store where something is wrong: rows, files, locks, file systems."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from dataplane.errors import LeaseLost, StoreBusy, StoreError
from dataplane.model import LeaseGone, LeasePut, LeaseRefused, RefusedLease, Snapshot
from dataplane.stores.embedded import database, directory
from dataplane.stores.embedded.store import file_name
from tests.stores.embedded.machine import Machine, node, previous, run, watching


def test_a_row_that_cannot_be_decoded_is_refused_alone(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        good = await store.acquire(node(1), previous("10.3.1.0/24"))
        insert = "INSERT INTO lease (subnet, node, value) VALUES (?, ?, ?)"
        async with watching(store) as following:
            assert await following() == Snapshot((good,))
            with machine.sql() as sql:
                sql.execute(insert, ("10.3.2.0/24", "192.0.2.9", '{"PublicIP":7}'))
                event = await following()
                assert isinstance(event, LeaseRefused) and event.refused.key == "10.3.2.0-24"
                assert "PublicIP: 7" in event.refused.reason
                sql.execute(insert, ("10.3.3.0", "b", "{}"))
                sql.execute(insert, ("here; rm -rf", "c", "{}"))
                sql.execute("INSERT INTO lease (subnet, node, value) VALUES ('10.3.4.0/24', 'd', CAST(x'ff' AS TEXT))")
                for key in ("'10.3.3.0'", "'here; rm -rf'", "10.3.4.0-24"):
                    event = await following()
                    assert isinstance(event, LeaseRefused) and event.refused.key == key
        async with watching(store) as following:
            snapshot = await following()
            assert isinstance(snapshot, Snapshot) and snapshot.leases == (good,)
            assert {refused.key for refused in snapshot.refused} == {
                "10.3.2.0-24",
                "'10.3.3.0'",
                "'here; rm -rf'",
                "10.3.4.0-24",
            }
            assert all(isinstance(refused, RefusedLease) and refused.reason for refused in snapshot.refused)
            # Refused or not, the subnet is somebody's; and its own node heals it.
            assert (await store.acquire(node(5), previous("10.3.2.0/24"))).key != "10.3.2.0-24"
            await following()
            healed = await store.acquire(node(9), None)
            assert healed.key == "10.3.2.0-24"
            assert await following() == LeasePut(healed)

    run(tmp_path, test)


insert = "INSERT INTO lease (subnet, ipv6_subnet, node, value) VALUES (?, ?, ?, ?)"


@pytest.mark.parametrize(
    ("subnet", "ipv6_subnet"),
    [
        ("10.3.1.0-24", None),
        ("10.3.1.0/24 ", None),
        ("10.3.1.0/24\0", None),
        ("010.3.1.0/24", None),
        (None, "10.3.1.0/24"),
        (None, "10.3.1.0-24"),
        ("10.3.1.0/24\0" + "x" * 1000, None),
    ],
)
def test_a_row_that_is_no_lease_never_has_the_key_of_one(
    tmp_path: Path, subnet: str | None, ipv6_subnet: str | None
) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        good = await store.acquire(node(1), previous("10.3.1.0/24"))
        assert good.key == "10.3.1.0-24"
        async with watching(store) as following:
            await following()
            with machine.sql() as sql:
                sql.execute(insert, (subnet, ipv6_subnet, "alias", "{}"))
                refused = await following()
                assert isinstance(refused, LeaseRefused) and refused.refused.key != good.key
                sql.execute("DELETE FROM lease WHERE node = 'alias'")
                assert await following() == LeaseGone(refused.refused.key)

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("odd", "plain"),
    [
        (("10.3.9.0/024", None), ("10.3.9.0/24", None)),
        (("10.3.9.0/255.255.255.0", None), ("10.3.9.0/24", None)),
        ((None, "FD00:0:0:9::/64"), (None, "fd00:0:0:9::/64")),
        ((None, "fd00:0:0:9:0::/64"), (None, "fd00:0:0:9::/64")),
    ],
)
def test_a_second_spelling_is_no_lease_however_old_it_is(
    tmp_path: Path, odd: tuple[str | None, str | None], plain: tuple[str | None, str | None]
) -> None:
    """No daemon writes one. What it names is taken all the same, so that no node is given it."""

    async def test(machine: Machine) -> None:
        store = machine.store()
        await store.acquire(node(1), None)
        async with watching(store) as following:
            await following()
            with machine.sql() as sql:
                sql.execute(insert, (*odd, "192.0.2.66", '{"PublicIP":"192.0.2.66"}'))
                event = await following()
                assert isinstance(event, LeaseRefused)
                text = odd[0] or odd[1]
                assert event.refused.reason == f"{text} is not the plain spelling {plain[0] or plain[1]}"
                sql.execute(insert, (*plain, "192.0.2.7", '{"PublicIP":"192.0.2.7"}'))
                event = await following()
                assert isinstance(event, LeasePut) and str(event.lease.attrs.public_ip) == "192.0.2.7"
                lease = event.lease
        async with watching(store) as following:
            snapshot = await following()
            assert isinstance(snapshot, Snapshot) and lease in snapshot.leases and len(snapshot.refused) == 1
        if plain[0] is not None:
            with machine.sql() as sql:
                sql.execute("DELETE FROM lease WHERE node = '192.0.2.7'")
            assert (await store.acquire(node(2), previous(plain[0]))).key != lease.key

    run(tmp_path, test)


def test_a_value_that_is_too_long_is_refused_and_never_loaded(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        good = await store.acquire(node(1), previous("10.3.1.0/24"))
        padded = '{"PublicIP":"192.0.2.9","PublicIPv6":null,"x":"%s"}'
        largest = padded % ("x" * (65536 - len(padded) + 2))
        assert len(largest) == 65536
        async with watching(store) as following:
            await following()
            with machine.sql() as sql:
                sql.execute(insert, ("10.3.2.0/24", None, "192.0.2.9", largest))
                assert isinstance(await following(), LeasePut)
                sql.execute("UPDATE lease SET value = value || ' ' WHERE node = '192.0.2.9'")
                event = await following()
                assert isinstance(event, LeaseRefused) and event.refused.key == "10.3.2.0-24"
                assert "65537 bytes" in event.refused.reason and "65536" in event.refused.reason
                sql.execute(insert, ("1" * 10_000_000, None, "long", "{}"))
                event = await following()
                assert isinstance(event, LeaseRefused)
                assert "10000000 bytes" in event.refused.key and len(event.refused.key) < 100
        async with watching(store) as following:
            snapshot = await following()
            assert isinstance(snapshot, Snapshot) and snapshot.leases == (good,) and len(snapshot.refused) == 2
        healed = await store.acquire(node(9), None)
        assert healed.key == "10.3.2.0-24"

    run(tmp_path, test)


def test_what_a_row_says_cannot_reach_a_terminal_as_it_is(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        await store.acquire(node(1), None)
        hostile = "\x1b[2Jready\n2026 ERROR x\u202e\r"
        with machine.sql() as sql:
            sql.execute(insert, (hostile, None, "a", "{}"))
            sql.execute(insert, ("10.3.9.0/24", None, "b", json.dumps({"PublicIP": hostile})))
            sql.execute(insert, ("10.3.8.0/24" + hostile, None, "c", "{}"))
        async with watching(store) as following:
            snapshot = await following()
        assert isinstance(snapshot, Snapshot) and len(snapshot.refused) == 3
        for refused in snapshot.refused:
            assert refused.key.isprintable() and refused.reason.isprintable()
            assert len(refused.key) <= 400 and len(refused.reason) <= 400

    run(tmp_path, test)


@pytest.mark.parametrize("content", [b"not a database, but long enough to be looked at" * 100, os.urandom(8192)])
def test_a_file_that_is_no_database_is_named(tmp_path: Path, content: bytes) -> None:
    async def test(machine: Machine) -> None:
        machine.directory.mkdir()
        path = machine.directory / file_name
        path.write_bytes(content)
        store = machine.store()
        with pytest.raises(StoreError, match=str(path)):
            await store.acquire(node(1), None)
        async with watching(store) as following:
            with pytest.raises(StoreError, match=str(path)):
                await following()
        assert path.read_bytes() == content
        path.unlink()
        await store.acquire(node(1), None)  # the same store, once the file is out of the way

    run(tmp_path, test)


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        for number in range(200):
            await store.acquire(node(number), None)
        await machine.close()
        machine.stores.clear()
        path = machine.directory / file_name
        content = bytearray(path.read_bytes())
        content[4096:] = os.urandom(len(content) - 4096)  # the first page holds the schema and stays
        path.write_bytes(content)
        with pytest.raises(StoreError, match=f"{path}: damaged"):
            await machine.store().acquire(node(1), None)

    run(tmp_path, test)


def test_anothers_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        machine.directory.mkdir()
        with machine.sql() as sql:
            sql.execute("CREATE TABLE notes (text)")
        before = (machine.directory / file_name).read_bytes()
        with pytest.raises(StoreError, match="database of another program"):
            await machine.store().acquire(node(1), None)
        assert (machine.directory / file_name).read_bytes() == before
        assert os.listdir(machine.directory) == [file_name]

    run(tmp_path, test)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        await machine.store().acquire(node(1), None)
        with machine.sql() as sql:
            sql.execute("PRAGMA user_version = 2")
        with pytest.raises(StoreError, match="schema version 2, known here is 1"):
            await machine.store().acquire(node(1), None)

    run(tmp_path, test)


def test_a_file_replaced_under_us_is_no_second_truth(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store, other = machine.store(), machine.store()
        lease = await store.acquire(node(1), None)
        async with watching(store) as following:
            await following()
            for name in os.listdir(machine.directory):
                (machine.directory / name).unlink()
            with pytest.raises(StoreError, match="removed or replaced"):
                await following()
        await other.acquire(node(2), None)
        with pytest.raises(StoreError, match="removed or replaced"):
            await store.renew(lease)
        with pytest.raises(LeaseLost):
            await store.renew(lease)
        assert (await store.acquire(node(1), lease)).subnet == lease.subnet

    run(tmp_path, test)


def test_a_directory_that_was_removed_is_told_and_not_made_anew(tmp_path: Path) -> None:
    """A new, empty one would say that every lease is gone, ours too."""

    async def test(machine: Machine) -> None:
        store = machine.store()
        lease = await store.acquire(node(1), None)
        await store.ping()
        shutil.rmtree(machine.directory)
        for _ in range(3):
            for asked in (store.ping(), store.renew(lease)):
                with pytest.raises(StoreError, match="was removed") as refused:
                    await asked
                assert not isinstance(refused.value, LeaseLost)
            async with watching(store) as following:
                with pytest.raises(StoreError, match="was removed"):
                    await following()
        assert not machine.directory.exists()
        assert (await machine.store().acquire(node(1), lease)).subnet == lease.subnet  # a restarted daemon

    run(tmp_path, test)


def test_a_watch_stands_for_as_long_as_the_file_is_followed(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        await store.acquire(node(1), None)
        assert not store.stands
        async with watching(store) as following:
            await following()
            assert store.stands
            shutil.rmtree(machine.directory)
            with pytest.raises(StoreError, match="was removed"):
                await following()
            assert not store.stands

    run(tmp_path, test)


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


def test_a_lock_held_by_another_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.stores.embedded.database.busy_seconds", 0.1)

    async def test(machine: Machine) -> None:
        store = machine.store()
        lease = await store.acquire(node(1), None)
        with machine.sql() as sql:
            sql.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusy, match="locked by another process"):
                await store.renew(lease)
            with pytest.raises(StoreBusy, match="locked by another process"):
                await machine.store().acquire(node(2), None)
            async with watching(machine.store()) as following:
                with pytest.raises(StoreError, match="locked by another process"):
                    await following()
            sql.execute("ROLLBACK")
        await store.renew(lease)

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


def test_a_database_that_another_daemon_is_just_making_is_no_strangers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody commits the whole schema between two of our looks, unless our transaction makes him wait."""
    path = tmp_path / file_name
    connect = sqlite3.connect

    class Interrupted(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            if sql == "PRAGMA user_version":
                monkeypatch.setattr(sqlite3, "connect", connect)
                other = connect(path, timeout=0, isolation_level=None)
                with contextlib.suppress(sqlite3.OperationalError), other:
                    other.execute("BEGIN IMMEDIATE")
                    for statement in database._schema:
                        other.execute(statement)
                other.close()
            return super().execute(sql, *parameters)

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, **kwargs, factory=Interrupted))
    database.Database(path, 60.0, database.LeaseClock()).close()
    assert sqlite3.connect is connect
