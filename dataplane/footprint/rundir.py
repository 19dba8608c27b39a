"""The run directory: one daemon's own, whatever became of the one before, and nobody else's to write to."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dataplane.errors import HostError
from dataplane.footprint.locks import is_lock_of, take_lock
from dataplane.runtime.private_files import make_directory, open_file, opened_directory


@dataclass(slots=True)
class Held:
    """A run directory that is ours.

    Attributes:
        descriptor: of the pid file, with the lock.
        is_handed_over: another daemon has it now; nothing in it is ours to change.
    """

    descriptor: int
    is_handed_over: bool = False


@contextmanager
def run_directory(directory: Path, given: int | None = None) -> Iterator[Held]:
    """Hold `directory` as ours, with a locked pid file in it.

    Args:
        given: the pid file's descriptor, with its lock, as the daemon before us had it.
    Raises:
        HostError: another daemon has it, it is not ours alone (see `private_files`), or it cannot be written to.
    """
    try:
        make_directory(directory, 0o755)
        with opened_directory(directory) as opened:
            descriptor = open_file(opened, directory / "pid", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unusable(directory, error) from error
    try:
        if given is not None and is_lock_of(given, descriptor):
            os.dup2(given, descriptor, inheritable=False)
        else:
            take_lock(descriptor, f"--run-dir {directory}", "a directory")
        held = Held(descriptor)
        try:
            os.truncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)  # the one that was given has been written to
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except OSError as error:
            raise _unusable(directory, error) from error
        yield held
        # Emptied, not removed: who waits for the lock must not end up with the lock of a file that is gone.
        if not held.is_handed_over:
            with suppress(OSError):
                os.truncate(descriptor, 0)
    finally:
        os.close(descriptor)


def is_held(directory: Path) -> bool:
    """Whether a daemon has the directory; raises `HostError`."""
    try:
        with opened_directory(directory) as opened:
            descriptor = open_file(opened, directory / "pid", os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unusable(directory, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)  # the lock with it
    return False


def _unusable(directory: Path, error: OSError) -> HostError:
    what = "" if error.filename in (None, str(directory)) else f"{error.filename} "
    return HostError(f"cannot use --run-dir {directory}: {what}{error.strerror or error}")
