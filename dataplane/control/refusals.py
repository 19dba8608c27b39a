"""Which leases are refused, for the status and, within bounds, for the log.

What must stay true: the state has all of them at any time, a change costs work for the changed ones only, and whoever
can write leases cannot fill the log: a few are named each second, and how many there are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from dataplane.control.say import Say
from dataplane.observe.state import NodeState

log = logging.getLogger(__name__)

named_a_second = 20


class Refusals:
    """Keeps `state.refused` (reason by lease key)."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._say = Say(log)
        self._second = 0
        self._named = 0

    def update(self, keys: Iterable[str], *reasons: Mapping[str, str]) -> None:
        """Bring these keys up to date; of several reasons the first counts."""
        refused = self._state.refused
        unnamed = 0
        for key in keys:
            reason = next((found[key] for found in reasons if key in found), None)
            if reason is None:
                if refused.pop(key, None) is not None:
                    self._say.over(key, f"lease {key} is no longer refused")
            elif refused.get(key) != reason:
                refused[key] = reason
                unnamed += not self._name(key, f"lease {key} is not used: {reason}")
        if unnamed and self._named == named_a_second:
            self._named += 1  # said once a second, too
            log.warning("and more; %d leases are refused now, `dataplane status` shows them", len(refused))

    def _name(self, key: str, text: str) -> bool:
        now = self._state.now()
        if int(now) != self._second:
            self._second, self._named = int(now), 0
        if self._named >= named_a_second:
            return False
        self._named += 1
        self._say.warn(key, text, now)
        return True
