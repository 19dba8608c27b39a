"""The file subnet.env: put in place whole, and put back when somebody removed or changed it.

Without it no new pod gets a network. Where a lease is withdrawn it goes: a pod without a network is tried again by the
kubelet, one with an address that is no longer ours, and soon another node's, stays wrong for its whole life. What must
stay true: a reader sees the old file or the whole new one, never half, and can always read it (0644 whatever the umask).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import tempfile
from pathlib import Path

from dataplane.errors import HostError
from dataplane.flannel.subnet_env import SubnetEnv, parse, text_of
from dataplane.observe.state import NodeState
from dataplane.runtime.clock import Clock
from dataplane.runtime.say import Say

log = logging.getLogger(__name__)

look_s = 2.0


def write(path: Path, env: SubnetEnv) -> None:
    """Put the file in place, atomically; missing directories are made with mode 0755.

    Raises:
        HostError: the file system refused.
    """
    try:
        _make_directories(path.parent)
        _replace(path, text_of(env))
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def remove(path: Path) -> None:
    """Remove the file, if it is there; raises `HostError`."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(f"cannot remove {path}: {error.strerror}") from error


def stands(path: Path, env: SubnetEnv) -> bool:
    """Say whether the file is there for everybody to read, with exactly what `write` would put into it."""
    text = text_of(env).encode()
    try:
        # O_NONBLOCK: a pipe in its place must not hold us up.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            return (
                stat.S_ISREG(status.st_mode)
                and bool(status.st_mode & stat.S_IROTH)
                and file.read(len(text) + 1) == text
            )
    except OSError:
        return False


def check(path: Path) -> None:
    """Raise `HostError` if `write` could not put the file in place; leaves its directories, not the file."""
    try:
        _make_directories(path.parent)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def read(path: Path) -> SubnetEnv:
    """Return what the file says; a missing file, and whatever cannot be used in it, counts as not said.

    Raises:
        HostError: the file is there but cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return SubnetEnv()
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
    return parse(text)


async def keep_subnet_file(path: Path, env: SubnetEnv, state: NodeState, clock: Clock) -> None:
    """Look every `look_s` seconds whether the file says what it should, and write it anew where not, for ever."""
    never = asyncio.Event()
    say = Say(log)
    while True:
        await clock.wait(never, look_s)
        try:
            if not stands(path, env):
                await asyncio.to_thread(write, path, env)
                state.events["repairs"] += 1
                say.warn("repair", f"somebody removed or changed {path}; it is back", clock.now())
        except HostError as error:
            state.blockers["subnet file"] = str(error)
            say.warn("failure", str(error), clock.now())
        else:
            state.blockers.pop("subnet file", None)
            say.over("failure", f"{path} is in place again")


def _make_directories(directory: Path) -> None:
    missing = [parent for parent in (directory, *directory.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
        parent.chmod(0o755)  # mkdir's own mode is cut by the umask


def _replace(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)  # the rename itself must survive a power cut
    finally:
        os.close(directory)
