"""Daemons killed with SIGKILL at random moments on one lease directory: nothing lost, nothing given twice.

Run as a program, this file is the killer: it forks workers that acquire and renew for many nodes, kills them at
random and starts them anew. A worker notes in a journal what a call returned, that is, what a daemon would already
build on; the page cache keeps the journal when the worker dies. The test follows the store while that goes on and
compares journal, watch, tables and event log afterwards. The seed is printed; it decides who is killed and when, but
not how the kernel interleaves the workers.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from dataplane.model import Lease, LeaseAttrs, LeaseGone, LeasePut, Snapshot
from dataplane.stores.choice import overlaps, span
from dataplane.stores.embedded.store import EmbeddedStore, file_name
from tests import environment

workers = 24
nodes = 200  # of 255 subnets, so that late ones really have to look for room
seconds = 6.0


def test_killed_daemons_lose_and_duplicate_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("DATAPLANE_TEST_SEED", random.randrange(2**32)))
    print(f"seed {seed} (DATAPLANE_TEST_SEED={seed} repeats it)")
    (tmp_path / "net-conf.json").write_text('{"Network":"10.3.0.0/16"}')
    (tmp_path / "journal").touch()

    followed, kills = asyncio.run(follow_while_killing(tmp_path, seed))

    journal = [line.split() for line in (tmp_path / "journal").read_text().splitlines()]
    given: dict[str, str] = {}
    for node, subnet in journal:
        assert given.setdefault(node, subnet) == subnet, f"{node} had {given[node]} and was then given {subnet}"
    held = table(tmp_path)
    assert len(set(given.values())) == len(given), "a subnet was given twice"
    assert given.items() <= held.items(), "a lease that was returned is not in the store"
    assert no_overlaps([IPv4Network(subnet) for subnet in held.values()])
    assert replayed(tmp_path) == set(held.values()), "the event log does not tell what happened"
    assert {str(lease.subnet) for lease in followed.values()} == set(held.values()), "the watch missed something"
    print(f"{kills} kills, {len(journal)} calls returned, {len(held)} leases")
    assert kills > 50 and len(journal) > 200 and len(held) == nodes


async def follow_while_killing(directory: Path, seed: int) -> tuple[dict[str, Lease], int]:
    """Run the killer; return what the watch says is held, and the number of kills."""
    store = EmbeddedStore(directory, directory / "net-conf.json", history=10**6)
    events = store.watch()
    assert isinstance(events, AsyncGenerator)
    held: dict[str, Lease] = {}
    killer = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        str(directory),
        str(seed),
        stdout=subprocess.PIPE,
        env=environment(),
    )
    try:
        done = asyncio.ensure_future(killer.communicate())
        following = asyncio.ensure_future(fold(events, held))
        output, _ = await asyncio.wait_for(done, seconds + 60)
        assert killer.returncode == 0
        # A last change after everybody has gone: once it is here, so is everything before it.
        last = await store.acquire(LeaseAttrs(IPv4Address("192.0.2.1")), None)
        deadline = time.monotonic() + 30
        while held.get(last.key) != last:
            if following.done():
                following.result()
            assert time.monotonic() < deadline, "the watch did not get to the end"
            await asyncio.sleep(0.01)
        following.cancel()
        await asyncio.wait([following])
        return held, int(output)
    finally:
        if killer.returncode is None:
            killer.terminate()
            await killer.wait()
        await events.aclose()
        await store.close()


async def fold(events: AsyncGenerator[object, None], held: dict[str, Lease]) -> None:
    async for event in events:
        match event:
            case Snapshot(leases=leases, refused=()):
                held.clear()
                held.update({lease.key: lease for lease in leases})
            case LeasePut(lease=lease):
                held[lease.key] = lease
            case LeaseGone(key=key):
                del held[key]
            case _:
                raise AssertionError(f"unexpected {event}")


def table(directory: Path) -> dict[str, str]:
    connection = sqlite3.connect(directory / file_name)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    held = dict(connection.execute("SELECT node, subnet FROM lease").fetchall())
    connection.close()
    return held


def replayed(directory: Path) -> set[str]:
    """Return the subnets that the event log, read from its beginning, leaves held."""
    connection = sqlite3.connect(directory / file_name)
    rows = connection.execute("SELECT revision, subnet, value IS NULL FROM event ORDER BY revision").fetchall()
    connection.close()
    assert [revision for revision, _, _ in rows] == list(range(1, len(rows) + 1))
    held: set[str] = set()
    for _, subnet, gone in rows:
        (held.discard if gone else held.add)(subnet)
    return held


def no_overlaps(networks: list[IPv4Network]) -> bool:
    ordered = sorted(networks)
    return not any(overlaps([span(low)], high) for low, high in itertools.pairwise(ordered))


async def work(directory: Path, seed: int) -> None:
    """Be daemon after daemon: acquire, note it, renew, note it, until killed."""
    draw = random.Random(seed)
    journal = os.open(directory / "journal", os.O_WRONLY | os.O_APPEND)
    while True:
        store = EmbeddedStore(directory, directory / "net-conf.json", history=10**6)
        attrs = LeaseAttrs(IPv4Address("192.0.2.1") + draw.randrange(nodes))
        lease = await store.acquire(attrs, None)
        os.write(journal, f"{attrs.public_ip} {lease.subnet}\n".encode())
        for _ in range(draw.randrange(4)):
            lease = await store.renew(lease)
            os.write(journal, f"{attrs.public_ip} {lease.subnet}\n".encode())
        await store.close()


def start_worker(directory: Path, seed: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(work(directory, seed))
        finally:
            os._exit(1)  # only reached by an exception, which the killer must hear of
    return pid


def kill_at_random(directory: Path, seed: int) -> int:
    """Return the number of kills; raises if a worker ended by itself."""
    draw = random.Random(seed)
    running = [start_worker(directory, draw.randrange(2**32)) for _ in range(workers)]
    kills = 0
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            time.sleep(draw.uniform(0, 0.06))
            kill(running.pop(draw.randrange(workers)))
            kills += 1
            running.append(start_worker(directory, draw.randrange(2**32)))
    finally:
        while running:
            kill(running.pop())
    let_all_come_back(directory)
    return kills


def let_all_come_back(directory: Path) -> None:
    """Let every node come back once, after the dying; the journal tells whether each got what it had."""

    async def whole() -> None:
        store = EmbeddedStore(directory, directory / "net-conf.json", history=10**6)
        with (directory / "journal").open("a") as journal:
            for number in range(nodes):
                lease = await store.acquire(LeaseAttrs(IPv4Address("192.0.2.1") + number), None)
                journal.write(f"{lease.attrs.public_ip} {lease.subnet}\n")
        await store.close()

    asyncio.run(whole())


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):
        raise RuntimeError(f"worker {pid} ended by itself with status {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    print(kill_at_random(Path(sys.argv[1]), int(sys.argv[2])))
