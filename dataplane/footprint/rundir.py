"""The run directory: one daemon's own, whatever became of the one before, and nobody else's to write to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dataplane.errors import HostError
from dataplane.footprint.locks import take_lock
from dataplane.runtime.private_files import make_directory, open_file, opened_directory


@contextmanager
def run_directory(directory: Path) -> Iterator[None]:
    """Hold `directory` as ours, with a locked pid file in it.

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
        take_lock(descriptor, f"--run-dir {directory}", "a directory")
        try:
            os.truncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except OSError as error:
            raise _unusable(directory, error) from error
        yield
        # Emptied, not removed: who waits for the lock must not end up with the lock of a file that is gone.
        with suppress(OSError):
            os.truncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _unusable(directory: Path, error: OSError) -> HostError:
    what = "" if error.filename in (None, str(directory)) else f"{error.filename} "
    return HostError(f"cannot use --run-dir {directory}: {what}{error.strerror or error}")
