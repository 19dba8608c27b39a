"""A lab whose leases are in a server beside it; a context manager, which ends both."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from dataplane.lab.cluster import Lab


class StoreCluster:
    """What makes one sets both.

    Attributes:
        lab: its daemons use the server.
        undo: ends the lab, then what it stands on.
    """

    lab: Lab
    undo: ExitStack

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        print(self.lab.logs(lines=60))
        self.undo.close()
