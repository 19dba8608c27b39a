"""Whether a directory can hold the embedded store, and that it is its owner's alone.

What must stay true: locks and shared memory mean the same to all users of the file; nobody but its owner can read it,
because who can read it can lock it. No file of the store is opened here: closing one would end SQLite's locks on it in
all of this process (fcntl(2)).
"""

from __future__ import annotations

import ctypes
import os
import platform
import stat
from contextlib import suppress
from pathlib import Path

from dataplane.errors import StoreError
from dataplane.runtime.private_files import check_file, make_directory, opened_directory

# statfs f_type of file systems where locks and shared memory do not hold between machines (linux/magic.h,
# fs/*/super.c). FUSE may be local, but nothing tells it from sshfs or gcsfuse.
_unsuitable = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFE534D42: "SMB2",
    0xFF534D42: "CIFS",
    0x01021997: "9P",
    0x65735546: "FUSE",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x6B414653: "AFS",
    0x73757245: "Coda",
    0x7461636F: "OCFS2",
    0x01161970: "GFS2",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
}


def refuse_network_file_system(directory: Path) -> None:
    """Raise `StoreError` if the directory is where SQLite's locks do not hold; `OSError` if that cannot be told."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(512)  # struct statfs is at most 120 bytes
    if libc.statfs(os.fsencode(directory), buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    # f_type comes first and is a long, except on s390x; magic numbers fill 32 bits.
    kind = ctypes.c_uint if platform.machine() == "s390x" else ctypes.c_long
    name = _unsuitable.get(kind.from_buffer(buffer).value & 0xFFFFFFFF)
    if name is not None:
        raise StoreError(
            f"lease directory {directory} is on {name}, where SQLite's locks cannot be relied on; "
            "allowed is a local file system such as ext4, xfs, btrfs or tmpfs"
        )


def claim(path: Path, create: bool) -> None:
    """Make the database file and its directory where they are missing, and see that they are ours alone.

    Modes that let others in are put right. A directory with the sticky bit is for many users and is refused instead.

    Args:
        path: the database file.
        create: whether a file that is missing is made.
    Raises:
        NotOurs: something is another user's, a link, or no plain file.
        FileNotFoundError: there is none, and none is to be made.
        OSError: it cannot be made.
    """
    if create:
        make_directory(path.parent, 0o700)
    _close_to_others(path.parent)
    with opened_directory(path.parent) as directory:
        if create:
            with suppress(FileExistsError):
                os.mknod(path.name, stat.S_IFREG | 0o600, dir_fd=directory)
        os.stat(path.name, dir_fd=directory, follow_symlinks=False)
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-journal"):
            with suppress(FileNotFoundError):
                _claim_file(directory, path.with_name(name))


def _close_to_others(directory: Path) -> None:
    status = os.lstat(directory)
    shut = status.st_mode & ~(stat.S_IWGRP | stat.S_IWOTH)
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if ours and shut != status.st_mode and not status.st_mode & stat.S_ISVTX:
        os.chmod(directory, stat.S_IMODE(shut))


def _claim_file(directory: int, path: Path) -> None:
    status = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
    check_file(status, path)
    if stat.S_IMODE(status.st_mode) != 0o600:
        os.chmod(path.name, 0o600, dir_fd=directory)
