"""Descriptors that go from one process to the next, by name.

What must stay true: whatever was received is closed again unless somebody takes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, takewhile

roles = ("tun", "receive", "source")


@dataclass(slots=True)
class Kept:
    """Descriptors by name; "flannel.1/tun/0" is the first queue of the TUN of that plan."""

    by_name: dict[str, int] = field(default_factory=dict)

    def of(self, plan: str) -> dict[str, tuple[int, ...]] | None:
        """Give a plan's descriptors away, by role; None where there are none, or some are missing."""
        names = {role: tuple(self._numbered(f"{plan}/{role}/")) for role in roles}
        if not names["tun"] or not names["receive"]:
            return None
        return {role: tuple(self.by_name.pop(name) for name in names[role]) for role in roles}

    def _numbered(self, beginning: str) -> Iterator[str]:
        return takewhile(self.by_name.__contains__, (f"{beginning}{at}" for at in count()))

    def close(self) -> None:
        """Close what nobody took."""
        for fd in self.by_name.values():
            os.close(fd)
        self.by_name.clear()


def names_of(plan: str, descriptors: Mapping[str, tuple[int, ...]]) -> list[tuple[str, int]]:
    """The same by name, for the way."""
    return [(f"{plan}/{role}/{at}", fd) for role in roles for at, fd in enumerate(descriptors[role])]
