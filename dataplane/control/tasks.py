"""Background tasks that have names, and that never end in silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from dataplane.errors import DataplaneError

log = logging.getLogger(__name__)


def spawn(group: asyncio.TaskGroup, name: str, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, which must not end by itself, as a task of `group`; its end or failure ends the group."""
    task = group.create_task(_guard(name, work), name=name)
    # A group that ends at once cancels it before it begins, and Python complains of work that nobody awaited.
    task.add_done_callback(lambda _: work.close())


async def _guard(name: str, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except DataplaneError:
        raise
    except Exception:
        log.exception("task %s failed", name)
        raise
    raise RuntimeError(f"task {name} ended, though nobody stopped it")


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that best says why a task group ended: ours before anybody's."""
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves.append(first_error(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in leaves if isinstance(error, DataplaneError)), leaves[0])
