"""What two daemons say to each other while one takes over from the other: JSON messages, with descriptors beside them.

    new ─ asks, in its form ──────────────────────────▶ old
    new ◀─ every descriptor, and the state ──────────── old
    new ─ "ready": all is opened and set up ──────────▶ old      stops its workers
    new ◀─ "stopped", and the state as it is at last ── old
    new ─ "forwarding" ───────────────────────────────▶ old
    new ◀─ "yours" ──────────────────────────────────── old      ends

Until the last word the old one can go on, and does where none comes. What must stay true: there is one message for each word,
and what cannot be read ends the conversation.
Source: unix(7) SOCK_SEQPACKET, SCM_RIGHTS, SO_PEERCRED.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

from dataplane.errors import HostError

socket_name = "takeover.sock"  # in the run directory
most_bytes = 1 << 16
most_descriptors = 250  # linux/net/scm.h: SCM_MAX_FD is 253
_credentials = struct.Struct("=iII")  # struct ucred


class Broken(HostError):
    """The other one is gone, or says what nobody understands."""


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Process id (0: in another PID namespace) and user id of the other one."""
    pid, uid, _ = _credentials.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _credentials.size))
    return pid, uid


def say(connection: socket.socket, word: str, descriptors: Sequence[int] = (), **more: Any) -> None:
    """Send one message; raises `Broken`."""
    try:
        socket.send_fds(connection, [json.dumps({"word": word, **more}).encode()], descriptors)
    except OSError as error:
        raise Broken(f"the other daemon does not listen any more: {error.strerror}") from error


def hear(connection: socket.socket, *words: str) -> tuple[dict[str, Any], list[int]]:
    """Wait for one of these words; return the message and the descriptors beside it, closed in children.

    Raises:
        Broken: the connection ended or timed out, or something else was said.
    """
    try:
        data, fds, flags, _ = socket.recv_fds(connection, most_bytes, most_descriptors, socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        raise Broken(f"the other daemon says nothing: {error.strerror or error}") from error
    try:
        return read(data, words, bool(flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC))), list(fds)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def read(data: bytes, words: Sequence[str], is_cut: bool = False) -> dict[str, Any]:
    """Return the message if it is one of these words; raises `Broken`."""
    if not data:
        raise Broken("the other daemon has ended the conversation")
    try:
        message = json.loads(data)
        word = message["word"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Broken(f"the other daemon says what is no message of ours: {data[:80]!r}") from None
    if is_cut or word not in words:
        raise Broken(f"the other daemon says {word!r:.80}, where {' or '.join(words)} was due")
    return dict(message)


def blob(content: bytes) -> int:
    """Return a descriptor of memory with this content."""
    descriptor = os.memfd_create("dataplane", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    return descriptor


def read_blob(descriptor: int, most: int) -> bytes:
    """Return what is in there, and close it; raises `Broken` if that is too much."""
    with open(descriptor, "rb") as file:
        file.seek(0)
        content = file.read(most + 1)
    if len(content) > most:
        raise Broken(f"the other daemon's state is larger than {most} bytes")
    return content
