"""Which process holds a lock file's lock."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def holder_of(path: Path) -> int:
    """Process id of who holds a lock (flock) of the file; 0 where nobody does, or it cannot be seen from here.

    Source: proc(5), /proc/locks, which shows process ids as they are in our own PID namespace.
    """
    try:
        wanted = os.stat(path)
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    inode = f"{os.major(wanted.st_dev):02x}:{os.minor(wanted.st_dev):02x}:{wanted.st_ino}"
    for line in lines:
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == inode:
            return pid if (pid := int(words[4])) > 0 and _has(pid, wanted) else 0
    return 0


def _has(pid: int, wanted: os.stat_result) -> bool:
    """Whether the process has the file open: who took the lock may have handed it on, and its id may be another's by now."""
    with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as descriptors:
        for each in descriptors:
            with suppress(OSError):
                if os.path.samestat(os.stat(each.path), wanted):
                    return True
    return False
