"""Background tasks that have names, never end in silence, and never end the daemon for a trouble that may pass.

What must stay true: only what a daemon cannot live with ends it (the lease is another's, the input is wrong, the node
moved); anything else, expected or not, is told in log and status and tried again, at growing intervals.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Protocol

from dataplane.errors import BadInput, DataplaneError, LeaseLost, Moved, printable

log = logging.getLogger(__name__)
Arguments = ParamSpec("Arguments")

ending = (LeaseLost, BadInput, Moved)
first_delay_s = 0.2  # doubles
longest_delay_s = 30.0
calm_s = 60.0  # after which a trouble is over
blocking_row = 3  # failures in a row that make the node unready


class Told(Protocol):
    """The part of `observe.state.NodeState` that this needs."""

    blockers: dict[str, str]
    notes: dict[str, str]
    events: Counter[str]


def spawn(
    group: asyncio.TaskGroup,
    name: str,
    state: Told,
    work: Callable[Arguments, Coroutine[Any, Any, None]],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> None:
    """Run `work(*args)`, which must not end by itself, as a task of `group`; what is in `ending` ends the group."""
    group.create_task(_guard(name, state, lambda: work(*args, **kwargs)), name=name)


async def _guard(name: str, state: Told, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    subject = f"task {name}"
    row = 0
    said = ""

    def over() -> None:
        nonlocal row, said
        row, said = 0, ""
        state.notes.pop(subject, None)
        if state.blockers.pop(subject, None) is not None:
            log.info("%s works again", subject)

    try:
        while True:
            calm = asyncio.get_running_loop().call_later(calm_s, over)
            try:
                await work()
                raise RuntimeError("it ended, though nobody stopped it")
            except Exception as error:
                cause = first_error(error) if isinstance(error, ExceptionGroup) else error
                if isinstance(cause, ending):
                    raise
                text = f"{subject} failed: {_text(cause)}"
                if text != said:
                    log.error("%s; trying again", text, exc_info=None if isinstance(cause, DataplaneError) else error)
                said = text
            finally:
                calm.cancel()
            row += 1
            state.events["task_failures"] += 1
            (state.blockers if row >= blocking_row else state.notes)[subject] = said
            await asyncio.sleep(min(longest_delay_s, first_delay_s * 2 ** min(row - 1, 30)))
    finally:
        state.notes.pop(subject, None)
        state.blockers.pop(subject, None)


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, DataplaneError) else printable(f"{type(error).__name__}: {error}")


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that best says why a task group ended: ours before anybody's."""
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves.append(first_error(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in leaves if isinstance(error, DataplaneError)), leaves[0])
