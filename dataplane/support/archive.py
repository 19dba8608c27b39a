"""Writes pieces into one .tar.gz. What must stay true: it is whole or not there, for its owner alone, and replaces nothing."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from dataplane.errors import HostError
from dataplane.support.pieces import Piece


def contents(pieces: Iterable[Piece]) -> Iterator[str]:
    """Yield a line for each piece: its size and name, or why it was not had."""
    for piece in pieces:
        size = "-" if piece.why_not else f"{len(piece.text.encode()):,}"
        yield f"{size:>10}  {piece.name}" + (f" (not had: {piece.why_not})" if piece.why_not else "")


def write(path: Path, pieces: Iterable[Piece], now: float) -> int:
    """Write the archive and return its size in bytes; raises `HostError`, also where the file exists.

    Args:
        now: Unix time in seconds, of what is in it.
    """
    told = tuple(pieces)
    top = path.name.removesuffix(".tar.gz") or "support"
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
        try:
            with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
                _add(archive, f"{top}/contents", "\n".join(contents(told)) + "\n", now)
                for piece in told:
                    if not piece.why_not:
                        _add(archive, f"{top}/{piece.name}", piece.text, now)
            os.link(temporary, path)  # never over another file
            return path.stat().st_size
        finally:
            os.unlink(temporary)
    except FileExistsError as error:
        raise HostError(f"{path} exists; it is not replaced") from error
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror or error}") from error


def _add(archive: tarfile.TarFile, name: str, text: str, now: float) -> None:
    data = text.encode()
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(data), int(now), 0o600
    archive.addfile(member, io.BytesIO(data))
