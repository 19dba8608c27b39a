"""Runs a tool of the host (nft, iptables) to its end without holding up the event loop.

What must stay true: a tool that does not end is killed, also when the caller is cancelled, and a failure names the
tool, what it was asked and what it said.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from asyncio.subprocess import PIPE

from dataplane.errors import HostError, HostFault, printable

limit_s = 10.0
_no_right = ("Operation not permitted", "Permission denied", "must be root")
# A daemon may be started with a PATH that has no sbin.
_path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def find(tool: str) -> str | None:
    """Return where a tool is; None: it is not installed."""
    return shutil.which(tool, path=_path)


async def ask(*words: str, given: str = "") -> tuple[int, str, str]:
    """Run a tool; return its exit code, stdout and stderr.

    Raises:
        HostError: it is not installed, cannot be started or does not end in time.
    """
    path = find(words[0])
    if path is None:
        raise HostFault(f"the command {words[0]} is not installed")
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        # Not a pipe: a tool may end without reading it, and uvloop fails on that (RuntimeError: the handler is closed).
        with os.fdopen(os.memfd_create("stdin"), "w+b") as stdin:
            stdin.write(given.encode())
            stdin.seek(0)
            process = await asyncio.create_subprocess_exec(
                path, *words[1:], stdin=stdin, stdout=PIPE, stderr=PIPE, env=environment
            )
    except OSError as error:
        raise HostError(f"cannot run {path}: {error.strerror or error}") from error
    try:
        async with asyncio.timeout(limit_s):
            out, err = await process.communicate()
    except TimeoutError:
        raise HostError(f"{' '.join(words)}: no end within {limit_s:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")


async def call(*words: str, given: str = "") -> str:
    """Run a tool that must succeed; return its stdout.

    Raises:
        HostError: it failed.
    """
    code, out, err = await ask(*words, given=given)
    if code != 0:
        said = printable(err.strip().replace("\n", "; ")) or "no reason given"
        kind = HostFault if any(text in said for text in _no_right) else HostError
        raise kind(f"{' '.join(words)}: exit code {code}: {said}")
    return out
