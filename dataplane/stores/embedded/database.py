"""One connection to the embedded store's SQLite file: opening, checking, transactions, the clock of leases.

What must stay true:
- a commit survives kill -9 and a power cut (WAL, synchronous=FULL), and two writers never interleave
  (BEGIN IMMEDIATE);
- every change of a lease is in the event log in the same transaction, because triggers write it, so a change made
  with another tool is seen as well. Revisions rise by one, without gaps, and are never reused;
- a file that is not ours, is damaged, lies on a network file system or was replaced under us is refused by name.

Time: a lease ends by the time that the machine was awake (CLOCK_MONOTONIC), not by the wall clock. All daemons of a
directory share one kernel: a wall clock that jumps (no battery clock, first NTP answer) would end every lease at once, and
so would a night in which the machine sleeps and nobody can renew anything. `deadline` holds seconds of that clock. The
first daemon after a reboot converts what is left by the wall clock, at most one TTL; if that clock is late, leases live
longer, which is the safe side. `expires` is the same moment as Unix time, noted when written, for display and for the
renewal timer.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dataplane.errors import StoreBusy, StoreError
from dataplane.runtime.private_files import NotOurs
from dataplane.stores.embedded.directory import claim, refuse_network_file_system

busy_seconds = 10.0
"""How long a transaction waits for other daemons' before it fails."""

_application_id = 0x666C706C
_schema_version = 1
_schema = (
    """CREATE TABLE lease (
        subnet TEXT UNIQUE,
        ipv6_subnet TEXT UNIQUE,
        node TEXT NOT NULL UNIQUE,
        value TEXT NOT NULL,
        expires REAL,
        deadline REAL,
        CHECK (subnet IS NOT NULL OR ipv6_subnet IS NOT NULL),
        CHECK ((expires IS NULL) = (deadline IS NULL))
    ) STRICT""",
    "CREATE INDEX lease_by_deadline ON lease (deadline)",
    # A row without a value says that the lease is gone.
    """CREATE TABLE event (
        revision INTEGER PRIMARY KEY AUTOINCREMENT,
        subnet TEXT,
        ipv6_subnet TEXT,
        value TEXT,
        expires REAL
    ) STRICT""",
    """CREATE TRIGGER lease_inserted AFTER INSERT ON lease BEGIN
        INSERT INTO event (subnet, ipv6_subnet, value, expires)
            VALUES (new.subnet, new.ipv6_subnet, new.value, new.expires);
    END""",
    """CREATE TRIGGER lease_moved AFTER UPDATE OF subnet, ipv6_subnet ON lease
        WHEN old.subnet IS NOT new.subnet OR old.ipv6_subnet IS NOT new.ipv6_subnet BEGIN
        INSERT INTO event (subnet, ipv6_subnet) VALUES (old.subnet, old.ipv6_subnet);
        INSERT INTO event (subnet, ipv6_subnet, value, expires)
            VALUES (new.subnet, new.ipv6_subnet, new.value, new.expires);
    END""",
    """CREATE TRIGGER lease_updated AFTER UPDATE OF value, expires ON lease BEGIN
        INSERT INTO event (subnet, ipv6_subnet, value, expires)
            VALUES (new.subnet, new.ipv6_subnet, new.value, new.expires);
    END""",
    """CREATE TRIGGER lease_deleted AFTER DELETE ON lease BEGIN
        INSERT INTO event (subnet, ipv6_subnet) VALUES (old.subnet, old.ipv6_subnet);
    END""",
    "CREATE TABLE boot (id TEXT NOT NULL) STRICT",
    "INSERT INTO boot VALUES ('')",
    f"PRAGMA application_id = {_application_id}",
    f"PRAGMA user_version = {_schema_version}",
)


class LeaseClock:
    """The two clocks of a lease; tests put their own in its place."""

    def __init__(self) -> None:
        self.boot_id = _read_boot_id()

    def awake(self) -> float:
        """Return seconds since boot, without those that the machine slept (CLOCK_MONOTONIC)."""
        return time.clock_gettime(time.CLOCK_MONOTONIC)

    def wall(self) -> float:
        """Return Unix time in seconds."""
        return time.time()


class Database:
    """A connection, to be used in the thread that made it.

    Args:
        path: the database file, its owner's alone (see directory).
        ttl: seconds, the longest that a lease of an earlier boot may still live.
        create: whether it and its directory are made when missing.
    Raises:
        StoreBusy: another process holds it.
        StoreError: see above; names the file.
    """

    def __init__(self, path: Path, ttl: float, clock: LeaseClock, create: bool = True) -> None:
        self.path = path
        self.clock = clock
        self._open(ttl, create)

    def _open(self, ttl: float, create: bool) -> None:
        try:
            claim(self.path, create)
            refuse_network_file_system(self.path.parent)
        except FileNotFoundError as error:
            raise StoreError(f"{self.path}: was removed; a restarted daemon makes a new one") from error
        except NotOurs as error:
            raise StoreError(f"lease directory {self.path.parent}: {error.filename} {error.strerror}") from error
        except OSError as error:
            raise StoreError(f"lease directory {self.path.parent}: {error.strerror}") from error
        deadline = time.monotonic() + busy_seconds
        while True:
            with self._named_errors():
                connection = sqlite3.connect(self.path, timeout=busy_seconds, isolation_level=None)
            try:
                with self._named_errors():
                    _prepare(connection, ttl, self.clock)
                self._connection = connection
                self._identity = self._stat()
                return
            except _FirstOpenRace:
                # Turning WAL on does not wait for others as transactions do, so the waiting is ours.
                connection.close()
                if time.monotonic() > deadline:
                    raise StoreBusy(f"{self.path}: {_busy()}") from None
                time.sleep(0.01)
            except BaseException as error:
                connection.close()
                if isinstance(error, _Unusable):
                    raise StoreError(f"{self.path}: {error}") from None
                raise

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction, alone; any exception undoes it.

        Raises:
            StoreError: the file cannot be used (now).
        """
        self.check_identity()
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Run the block on one consistent state of the file; raises `StoreError` when it cannot be used (now)."""
        with self._transaction("BEGIN") as connection:
            yield connection

    def data_version(self) -> int:
        """Return a number that differs from last time's if and only if another connection has committed since."""
        with self._named_errors():
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def check_identity(self) -> None:
        """Raise `StoreError` if the path no longer names the file that we have open: it would be a second truth."""
        if self._stat() != self._identity:
            raise StoreError(f"{self.path}: was removed or replaced while in use")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._named_errors():
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # the first error tells more than a failed undoing
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")  # only there when SQLite itself said no
            if name.startswith("SQLITE_BUSY"):
                raise StoreBusy(f"{self.path}: {_busy()}") from error
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                text = f"damaged, or not a lease database: {error} (move it away, a new one is then made)"
            else:
                text = str(error)
            raise StoreError(f"{self.path}: {text}") from error

    def _stat(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino


def _busy() -> str:
    return f"store busy: locked by another process for {busy_seconds:.0f} s"


class _FirstOpenRace(Exception):
    """Another process is at the same file in a way that SQLite reports at once instead of waiting."""


class _Unusable(Exception):
    """The file is damaged, or a database but not one of ours."""


def _prepare(connection: sqlite3.Connection, ttl: float, clock: LeaseClock) -> None:
    # Hostile bytes in one row must not make all rows unreadable.
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    try:
        # Before anything is written to it, and on one state of the file: another daemon may just be making it.
        connection.execute("BEGIN")
        try:
            _refuse_foreign(connection)
        finally:
            connection.execute("ROLLBACK")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _refuse_foreign(connection):
                for statement in _schema:
                    connection.execute(statement)
            _move_to_this_boot(connection, ttl, clock)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname.startswith("SQLITE_BUSY"):
            raise _FirstOpenRace from error
        raise
    finding = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if finding != "ok":
        raise _Unusable(f"damaged: {finding} (move it away, a new one is then made)")


def _refuse_foreign(connection: sqlite3.Connection) -> bool:
    """Return whether the file is new and empty; raise `_Unusable` if it is neither that nor one of ours.

    Must run inside a transaction, as it looks three times.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if (application_id, version, objects) == (0, 0, 0):
        return True
    if application_id != _application_id:
        raise _Unusable("is a database of another program; allowed is a lease database or no file")
    if version != _schema_version:
        raise _Unusable(f"has schema version {version}, known here is {_schema_version}")
    return False


def _move_to_this_boot(connection: sqlite3.Connection, ttl: float, clock: LeaseClock) -> None:
    (boot_id,) = connection.execute("SELECT id FROM boot").fetchone()
    if boot_id == clock.boot_id:
        return
    connection.execute(
        "UPDATE lease SET deadline = ? + min(expires - ?, ?) WHERE expires IS NOT NULL",
        (clock.awake(), clock.wall(), ttl),
    )
    connection.execute("UPDATE boot SET id = ?", (clock.boot_id,))


def _read_boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        # Without a name the boot is told by when it was; a clock set since makes it another one, and leases are
        # then converted by the wall clock once more.
        return f"boot at {round(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))}"
