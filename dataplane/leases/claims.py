"""Who claims which overlay prefix, and who overlaps whom, without ever looking at every lease.

Pure. Prefixes are kept twice: by value, to find those that contain a prefix (one lookup for each length in use),
and sorted by first address, to find those inside it. What must stay true: the cost of one change grows with the
number of overlaps, not with the number of leases.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator

from dataplane.model import IPNetwork


class Claims:
    """A multiset of (prefix, key) that answers which keys overlap a prefix."""

    def __init__(self) -> None:
        self._holders: dict[tuple[int, int, int], set[str]] = {}
        self._sorted: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        self._lengths: dict[int, Counter[int]] = {4: Counter(), 6: Counter()}

    def add(self, prefix: IPNetwork, key: str) -> None:
        """Note that `key` claims `prefix`."""
        version, first, length = _parts(prefix)
        holders = self._holders.setdefault((version, first, length), set())
        if not holders:
            insort(self._sorted[version], (first, length))
            self._lengths[version][length] += 1
        holders.add(key)

    def drop(self, prefix: IPNetwork, key: str) -> None:
        """Take back what `add` noted."""
        version, first, length = _parts(prefix)
        holders = self._holders[version, first, length]
        holders.remove(key)
        if not holders:
            del self._holders[version, first, length]
            ordered = self._sorted[version]
            del ordered[bisect_left(ordered, (first, length))]
            self._lengths[version] -= Counter((length,))

    def overlapping(self, prefix: IPNetwork) -> Iterator[str]:
        """Yield every key that claims `prefix`, a prefix containing it or one inside it."""
        version, first, length = _parts(prefix)
        bits = prefix.max_prefixlen
        for shorter in self._lengths[version]:
            if shorter <= length:
                above = first >> (bits - shorter) << (bits - shorter)
                yield from self._holders.get((version, above, shorter), ())
        ordered = self._sorted[version]
        last = first | ((1 << (bits - length)) - 1)
        for index in range(bisect_left(ordered, (first, 0)), len(ordered)):
            start, longer = ordered[index]
            if start > last:
                break
            if longer > length:
                yield from self._holders[version, start, longer]


def _parts(prefix: IPNetwork) -> tuple[int, int, int]:
    return prefix.version, int(prefix.network_address), prefix.prefixlen
