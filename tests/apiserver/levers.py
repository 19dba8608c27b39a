"""What a test changes in the server: how it is configured, and how it is late or silent.

What must stay true: the administrator is never hindered, or a test could not take a lever back.
"""

from __future__ import annotations

import asyncio

import msgspec


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """How the server is configured; at its start, and by the lever of that name while it runs.

    Attributes:
        bookmark_s: between two bookmarks of a watch.
        window: changes that the watch cache keeps.
        watch_list: there is the streaming list.
        limit_from_cache: a list of any version (0) heeds its limit, as from Kubernetes 1.34 on; else it is one answer.
        forbid_s: after the start in which nobody but the administrator may do anything: RBAC's caches are not filled yet.
        forbid_because: what RBAC says of it: "" while it knows no binding, else that it lacks the role.
        advance_to: the version that writes to other objects pass before the first request.
    """

    bookmark_s: float = 60.0
    window: int = 10_000
    watch_list: bool = True
    limit_from_cache: bool = True
    forbid_s: float = 0.0
    forbid_because: str = ""
    advance_to: int = 0


class Levers:
    """What is pulled at the moment.

    Attributes:
        gone_as_status: a watch of an expired version is answered 410, not taken and then told so by an event.
        flowing: cleared while watches bring nothing, as behind a proxy that swallowed them.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.gone_as_status = False
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._delays: dict[tuple[str, str], float] = {}

    def delay(self, verb: str, prefix: str, seconds: float) -> None:
        """Answer requests of this verb below this path so much later; 0 takes it back."""
        self._delays.pop((verb, prefix), None)
        if seconds:
            self._delays[verb, prefix] = seconds

    def delay_of(self, verb: str, path: str) -> float:
        """Return by how many seconds an answer is late."""
        return max(
            (
                seconds
                for (delayed, prefix), seconds in self._delays.items()
                if delayed == verb and path.startswith(prefix)
            ),
            default=0.0,
        )
