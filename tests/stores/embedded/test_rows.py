"""Rows of the embedded store that somebody else wrote: each is refused alone, and never has the key of a lease."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataplane.model import LeaseGone, LeasePut, LeaseRefused, RefusedLease, Snapshot
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
