"""The objects of one cluster, each write with a version of its own, and the history by which watches go on.

What must stay true: a write is in the journal before it is answered, so a restart loses nothing; versions only grow,
except where an earlier journal is put back, which is what restoring etcd from a backup does; the history begins anew with each start,
as an API server's watch cache does.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Document = dict[str, Any]


class NotFound(Exception):
    """There is no such object."""


class Expired(Exception):
    """A version is older than the history, or a list's continuation older than the last compaction."""


@dataclass(frozen=True, slots=True)
class Change:
    """One write. `kind`: the resource ("nodes"); `what`: ADDED, MODIFIED or DELETED."""

    version: int
    kind: str
    key: str
    what: str
    document: Document


class Objects:
    """Everything below one journal.

    Args:
        journal: a file of one JSON document a line, read now and appended to by every write.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self.version = 1
        self._documents: dict[str, dict[str, Document]] = {}
        self._history: list[Change] = []
        self.changed = asyncio.Condition()
        if journal.exists():
            for line in journal.read_text().splitlines():
                entry = json.loads(line)
                self.version = entry["version"]
                self._keep(entry["kind"], entry["key"], entry["document"])
        self.oldest = self.version

    def get(self, kind: str, key: str) -> Document | None:
        """Return an object; None if there is none."""
        return self._documents.get(kind, {}).get(key)

    def all(self, kind: str) -> list[tuple[str, Document]]:
        """Return every object of a kind with its key, in the order of keys."""
        return sorted(self._documents.get(kind, {}).items())

    async def write(self, kind: str, key: str, document: Document | None) -> Document:
        """Put an object, or delete it (None); return it as it is now, or was."""
        before = self.get(kind, key)
        if document is None and before is None:
            raise NotFound(f'{kind} "{key}" not found')
        self.version += 1
        after = dict(before or {} if document is None else document)
        after["metadata"] = {
            "uid": str(uuid.uuid4()),
            "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **after.get("metadata", {}),
            "resourceVersion": str(self.version),
        }
        what = "DELETED" if document is None else "ADDED" if before is None else "MODIFIED"
        kept = None if document is None else after
        with self._journal.open("a") as journal:
            entry = {"version": self.version, "kind": kind, "key": key, "document": kept}
            journal.write(json.dumps(entry) + "\n")
        self._keep(kind, key, kept)
        self._history.append(Change(self.version, kind, key, what, after))
        async with self.changed:
            self.changed.notify_all()
        return after

    def since(self, version: int) -> Iterator[Change]:
        """Yield the changes after `version`; raises `Expired`."""
        if version < self.oldest:
            raise Expired(f"too old resource version: {version} ({self.oldest})")
        # Versions of the history have no gaps.
        yield from self._history[max(0, version - self.oldest) :]

    def compact(self) -> None:
        """Forget the history."""
        self._history.clear()
        self.oldest = self.version

    def _keep(self, kind: str, key: str, document: Document | None) -> None:
        if document is None:
            self._documents.get(kind, {}).pop(key, None)
        else:
            self._documents.setdefault(kind, {})[key] = document
