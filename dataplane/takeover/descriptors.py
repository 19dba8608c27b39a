"""Descriptors that go from one process to the next, by name.

What must stay true: whatever was received is closed again unless somebody takes it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

roles = ("tun", "receive", "source")


@dataclass(slots=True)
class Kept:
    """Descriptors by name; "flannel.1/tun/0" is the first queue of the TUN of that plan."""

    by_name: dict[str, int] = field(default_factory=dict)

    def of(self, plan: str) -> dict[str, tuple[int, ...]] | None:
        """Give a plan's descriptors away, by role; None where there are none, or some are missing."""
        found: dict[str, tuple[int, ...]] = {}
        for role in roles:
            numbered: list[int] = []
            while (fd := self.by_name.pop(f"{plan}/{role}/{len(numbered)}", None)) is not None:
                numbered.append(fd)
            found[role] = tuple(numbered)
        return found if found["tun"] and found["receive"] else None

    def close(self) -> None:
        """Close what nobody took."""
        for fd in self.by_name.values():
            os.close(fd)
        self.by_name.clear()


def names_of(plan: str, descriptors: Mapping[str, tuple[int, ...]]) -> list[tuple[str, int]]:
    """The same by name, for the way."""
    return [(f"{plan}/{role}/{at}", fd) for role in roles for at, fd in enumerate(descriptors[role])]
