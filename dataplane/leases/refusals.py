"""Which leases are refused, or used with a doubt, for the status and, within bounds, for the log.

What must stay true: the state has all of them at any time, a change costs work for the changed ones only, and whoever
can write leases cannot fill the log: a few are named each minute, and how many there are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from dataplane.observe.state import NodeState
from dataplane.runtime.say import Say

log = logging.getLogger(__name__)

named_a_minute = 20


class Refusals:
    """Keeps one of the state's dicts of reason by lease key.

    Args:
        told: `state.refused` or another.
        what, many, over: about a lease, before its reason; about many; and when there is no reason any more.
    """

    def __init__(self, state: NodeState, told: dict[str, str], *, what: str, many: str, over: str) -> None:
        self._state = state
        self._told = told
        self._what = what
        self._many = many
        self._over = over
        self._say = Say(log)
        self._minute = 0
        self._named = 0

    def update(self, keys: Iterable[str], *reasons: Mapping[str, str]) -> None:
        """Bring these keys up to date; of several reasons the first counts."""
        told = self._told
        unnamed = 0
        for key in keys:
            reason = next((found[key] for found in reasons if key in found), None)
            if reason is None:
                if told.pop(key, None) is not None:
                    self._say.over(key, f"lease {key} {self._over}")
            elif told.get(key) != reason:
                told[key] = reason
                unnamed += not self._name(key, f"lease {key} {self._what}: {reason}")
        if unnamed and self._named == named_a_minute:
            self._named += 1  # said once a minute, too
            log.warning("and more; %d leases %s now, `dataplane status` shows them", len(told), self._many)

    def _name(self, key: str, text: str) -> bool:
        now = self._state.now()
        if int(now / 60) != self._minute:
            self._minute, self._named = int(now / 60), 0
        if self._named >= named_a_minute:
            return False
        self._named += 1
        self._say.warn(key, text, now)
        return True
