"""The objects of one cluster, each write with a version of its own, and the history by which watches go on.

What must stay true: a write is in the journal before it is answered, so a restart loses nothing; versions only grow,
except where an earlier journal is put back, which is what restoring etcd from a backup does; the history is bounded and begins
anew with each start, as an API server's watch cache does. Objects are kept encoded: thousands of big Nodes are sent more
often than they are changed.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from tests.apiserver.statuses import Document, expired, not_found

_null = b"null"


@dataclass(frozen=True, slots=True)
class Change:
    """One write. `kind`: the resource ("nodes"); `what`: ADDED, MODIFIED or DELETED; `document` is encoded."""

    version: int
    kind: str
    key: str
    what: str
    document: bytes


class _Entry(msgspec.Struct):
    version: int
    kind: str
    key: str
    document: msgspec.Raw


class Objects:
    """Everything below one journal.

    Args:
        journal: a file of one JSON document a line, read now and appended to by every write.
        window: that many changes are kept.
    """

    def __init__(self, journal: Path, window: int = 10_000) -> None:
        self._journal = journal
        self.version = 1
        self._documents: dict[str, dict[str, bytes]] = {}
        self._history: deque[Change] = deque()
        self.window = window
        self.changed = asyncio.Condition()
        if journal.exists():
            for line in journal.read_bytes().splitlines():
                entry = msgspec.json.decode(line, type=_Entry)
                self.version = entry.version
                self._keep(entry.kind, entry.key, bytes(entry.document))
        self.oldest = self.version

    def raw(self, kind: str, key: str) -> bytes | None:
        """Return an object, encoded; None if there is none."""
        return self._documents.get(kind, {}).get(key)

    def get(self, kind: str, key: str) -> Document | None:
        """Return an object; None if there is none."""
        raw = self.raw(kind, key)
        return None if raw is None else msgspec.json.decode(raw)

    def all(self, kind: str) -> list[bytes]:
        """Return every object of a kind, encoded, in the order of keys."""
        return [document for _, document in sorted(self._documents.get(kind, {}).items())]

    def keys(self, kind: str) -> list[str]:
        """Return the keys of a kind."""
        return sorted(self._documents.get(kind, {}))

    async def write(self, kind: str, key: str, document: Document | None) -> bytes:
        """Put an object, or delete it (None); return it as it is now, or was."""
        (change,) = self.record(kind, [(key, document)])
        await self.tell()
        return change.document

    def record(self, kind: str, writes: Sequence[tuple[str, Document | None]]) -> list[Change]:
        """Make several writes, of which watches hear by `tell`."""
        changes = []
        lines = []
        for key, document in writes:
            before = self.get(kind, key)
            if document is None and before is None:
                raise not_found(kind, key)
            self.version += 1
            after: dict[str, Any] = dict(before or {} if document is None else document)
            after["metadata"] = {
                "uid": str(uuid.uuid4()),
                "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                **after.get("metadata", {}),
                "resourceVersion": str(self.version),
            }
            what = "DELETED" if document is None else "ADDED" if before is None else "MODIFIED"
            encoded = msgspec.json.encode(after)
            kept = _null if document is None else encoded
            lines.append(msgspec.json.encode(_Entry(self.version, kind, key, msgspec.Raw(kept))))
            self._keep(kind, key, kept)
            changes.append(Change(self.version, kind, key, what, encoded))
        with self._journal.open("ab") as journal:
            journal.write(b"".join(line + b"\n" for line in lines))
        self._history.extend(changes)
        self._forget()
        return changes

    async def tell(self) -> None:
        """Have the watches go on."""
        async with self.changed:
            self.changed.notify_all()

    async def reaches(self, version: int, seconds: float) -> bool:
        """Wait until there is this version."""
        try:
            async with asyncio.timeout(seconds), self.changed:
                await self.changed.wait_for(lambda: self.version >= version)
        except TimeoutError:
            return False
        return True

    def since(self, version: int) -> Iterator[Change]:
        """Yield the changes after `version`, of those there are now; raises `Failure` 410."""
        if version < self.oldest:
            raise expired(f"too old resource version: {version} ({self.oldest})")
        # Versions of the history have no gaps.
        yield from list(islice(reversed(self._history), max(0, self.version - version)))[::-1]

    def compact(self) -> None:
        """Forget the history."""
        self._history.clear()
        self.oldest = self.version

    def advance(self, version: int) -> None:
        """Make writes that are of no Node until this version is passed, as the rest of a cluster does."""
        while self.version <= version:
            name = f"other-{self.version}"
            self.record("pods", [(f"default/{name}", {"metadata": {"name": name, "namespace": "default"}})])

    def _forget(self) -> None:
        while len(self._history) > self.window:
            self.oldest = self._history.popleft().version

    def _keep(self, kind: str, key: str, document: bytes) -> None:
        if document == _null:
            self._documents.get(kind, {}).pop(key, None)
        else:
            self._documents.setdefault(kind, {})[key] = document
