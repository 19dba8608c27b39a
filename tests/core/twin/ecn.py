"""Congestion marks across the tunnel: RFC 6040, normal mode.

The slow twin of merge_ecn in csrc/receive/receive.c: the whole of figure 4 as a table, so that no case is left to reasoning.
"""

from __future__ import annotations

not_ect, ect1, ect0, ce = range(4)

_merged: dict[tuple[int, int], int | None] = {
    # (inner, outer): what leaves the tunnel; None: drop
    (not_ect, not_ect): not_ect,
    (not_ect, ect0): not_ect,
    (not_ect, ect1): not_ect,
    (not_ect, ce): None,
    (ect0, not_ect): ect0,
    (ect0, ect0): ect0,
    (ect0, ect1): ect1,
    (ect0, ce): ce,
    (ect1, not_ect): ect1,
    (ect1, ect0): ect1,
    (ect1, ect1): ect1,
    (ect1, ce): ce,
    (ce, not_ect): ce,
    (ce, ect0): ce,
    (ce, ect1): ce,
    (ce, ce): ce,
}


def outer_ecn(inner: int) -> int:
    """What the outer header carries: a copy (RFC 6040 section 4.1, figure 3)."""
    return inner


def merge_ecn(inner: int, outer: int) -> int | None:
    """What the inner header carries behind the tunnel; None where the packet must be dropped (section 4.2, figure 4)."""
    return _merged[inner, outer]
