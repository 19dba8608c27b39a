"""Our Node's condition NetworkUnavailable as the watch shows it: when it has to be written again.

What must stay true: whatever is missed on the way, what is known in the end is what the API server shows; with another
controller that writes the same condition there is no fight at full speed, but an object made anew does not wait.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import msgspec

from dataplane.stores.kube.objects import Node, NodeStatus

condition_type = "NetworkUnavailable"
rest_s = 10.0  # between two writes of it to one object


class NetworkCondition:
    """What is known of it.

    Attributes:
        uid: of the Node that was seen last; "" before there was one.
    """

    def __init__(self) -> None:
        self.uid = ""
        self._said = False
        self._news = asyncio.Event()

    def look(self, node: Node) -> None:
        """Take in our Node."""
        uid, status = node.metadata.uid, bytes(node.status)
        if status:
            said = _says_available(status)
        elif uid != self.uid:
            said = False  # a list does not tell: to be written, since it may not be there
        else:
            said = self._said
        if (uid, said) != (self.uid, self._said):
            self.uid, self._said = uid, said
            self._news.set()

    async def needed(self, uid: str) -> None:
        """Return when our Node does not say that its network is there, though the object `uid` was just told to."""
        rested = time.monotonic() + rest_s
        while True:
            rest = rested - time.monotonic()
            if not self._said and (uid != self.uid or rest <= 0):
                return
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self._said else rest):
                    await self._news.wait()


def _says_available(status: bytes) -> bool:
    try:
        found = msgspec.json.decode(status, type=NodeStatus | None)
    except msgspec.MsgspecError:
        return False
    conditions = (found.conditions if found is not None else None) or ()
    return any(condition.type == condition_type and condition.status == "False" for condition in conditions)
