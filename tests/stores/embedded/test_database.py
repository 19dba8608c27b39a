"""The embedded store's file where something is wrong with it: no database, another's, damaged, replaced, locked."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from dataplane.errors import LeaseLost, StoreBusy, StoreError
from dataplane.stores.embedded import database
from dataplane.stores.embedded.store import file_name
from tests.stores.embedded.machine import Machine, node, run, watching


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
