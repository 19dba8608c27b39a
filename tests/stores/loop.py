"""The daemon's kind of event loop, for tests of the stores."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

Result = TypeVar("Result")
limit_s = 200


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end, with a limit on the whole."""

    async def limited() -> Result:
        async with asyncio.timeout(limit_s):
            return await work

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(limited())
