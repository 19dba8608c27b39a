"""Directories and files that are ours alone: nobody else can have put them there, change them, or point them elsewhere.

What must stay true: files are opened relative to a directory that was looked at through the descriptor in use, and no
link is followed in a last component, so that whoever made the directory first cannot make us write to, or believe, a
file of somebody else. A run directory that any user may enter is fine, one that others may write to is not.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class NotOurs(OSError):
    """A directory or file that others can have made or can change; `strerror` says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(errno.EPERM, reason, str(path))


def make_directory(directory: Path, mode: int) -> None:
    """Make the directory (0755 for missing ones above it, `mode` for itself); raises `OSError`.

    One that is there is left as it is.
    """
    missing = [parent for parent in (directory, *directory.parents) if not os.path.lexists(parent)]
    for parent in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(parent, 0o700)
            if (wanted := mode if parent == directory else 0o755) != 0o700:
                parent.chmod(wanted, follow_symlinks=True)  # mkdir's own mode is cut by the umask


@contextmanager
def opened_directory(directory: Path, *others: int) -> Iterator[int]:
    """Open a directory that must be ours, and give its descriptor.

    Args:
        others: user ids that it may belong to as well.
    Raises:
        NotOurs: it is a link, another user's, or others may write to it.
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if os.path.islink(directory):
            raise NotOurs(directory, "is a symbolic link; allowed is a directory") from error
        raise
    try:
        status = os.fstat(descriptor)
        if status.st_uid not in (os.geteuid(), *others):
            raise NotOurs(directory, f"belongs to user {status.st_uid}, not to us (user {os.geteuid()})")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            mode = stat.S_IMODE(status.st_mode)
            raise NotOurs(directory, f"can be written to by others (mode {mode:04o}); allowed is at most 0755")
        yield descriptor
    finally:
        os.close(descriptor)


def open_file(directory: int, path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a plain file of ours, `path.name` in an opened directory, and return its descriptor.

    Raises:
        FileNotFoundError: there is none, and `flags` has no O_CREAT.
        NotOurs: it is a link, no plain file, another user's, or has a second name.
        OSError: it cannot be opened.
    """
    try:
        # O_NONBLOCK: a pipe in the file's place must not hold us up.
        more = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path.name, flags & ~os.O_TRUNC | more, mode, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotOurs(path, "is a symbolic link; allowed is a plain file") from error
        raise
    try:
        check_file(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_file(status: os.stat_result, path: Path) -> None:
    """Raise `NotOurs` if that is not a plain file of ours with one name."""
    if not stat.S_ISREG(status.st_mode):
        raise NotOurs(path, "is no plain file")
    if status.st_uid != os.geteuid():
        raise NotOurs(path, f"belongs to user {status.st_uid}, not to us (user {os.geteuid()})")
    if status.st_nlink > 1:
        raise NotOurs(path, "has another name as well (a hard link)")


def replace_file(directory: int, path: Path, content: str | bytes) -> None:
    """Put a file of ours, `path.name` in an opened directory, in place whole; raises `OSError`, `NotOurs`."""
    new = path.with_suffix(".new")
    with suppress(FileNotFoundError):
        os.unlink(new.name, dir_fd=directory)
    with os.fdopen(open_file(directory, new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    os.rename(new.name, path.name, src_dir_fd=directory, dst_dir_fd=directory)
