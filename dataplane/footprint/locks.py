"""Files that say by a lock who writes here: the run directory's pid file, and one beside subnet.env.

The lock, not the file, says who runs: it goes with the process however that ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dataplane.errors import HostError
from dataplane.runtime.private_files import open_file, opened_directory

log = logging.getLogger(__name__)


class InUse(HostError):
    """Another daemon has it."""


def take_lock(descriptor: int, what: str, advice: str) -> None:
    """Lock an open file that holds a pid; raises `InUse`, naming `what` and who has it, where another daemon does."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(descriptor, 32).decode(errors="replace").strip()
        raise InUse(f"{what} is in use by another daemon (pid {pid}); give each daemon {advice} of its own") from None


def is_lock_of(given: int | None, descriptor: int) -> bool:
    """Whether a descriptor that the daemon before gave us, its lock with it, is of the same file as the one just opened."""
    return given is not None and os.path.samestat(os.fstat(given), os.fstat(descriptor))


@contextmanager
def subnet_file_lock(path: Path, given: int | None = None) -> Iterator[int | None]:
    """Hold a subnet.env, by a lock file beside it; raises `HostError` where another daemon has it.

    The directory is made by `keepers.subnet_file.check` before.

    Args:
        given: the lock's descriptor as the daemon before us had it.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        with opened_directory(path.parent) as directory:
            descriptor = open_file(directory, lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        # A directory of many users or somebody else's is a poor place, but who has it is no reason not to start.
        log.warning("it cannot be told whether another daemon writes %s: %s", path, error.strerror or error)
        yield None
        return
    try:
        if given is not None and is_lock_of(given, descriptor):
            os.dup2(given, descriptor, inheritable=False)
        else:
            take_lock(descriptor, f"--subnet-file {path}", "a file")
        with suppress(OSError):  # it is the lock that counts
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        yield descriptor
    finally:
        os.close(descriptor)
