"""The run directory: one daemon's own, whatever became of the one before."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataplane.errors import HostError


@contextmanager
def run_directory(directory: Path) -> Iterator[None]:
    """Hold `directory` as ours, with a locked pid file in it; raises `HostError` when another daemon has it.

    The lock, not the file, says who runs: it goes with the process however that ends.
    """
    path = directory / "pid"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HostError(f"cannot use --run-dir {directory}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 32).decode(errors="replace").strip()
            raise HostError(
                f"--run-dir {directory} is in use by another daemon (pid {pid}); give each daemon a directory of its own"
            ) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
        # Emptied, not removed: who waits for the lock must not end up with the lock of a file that is gone.
        os.truncate(descriptor, 0)
    finally:
        os.close(descriptor)
