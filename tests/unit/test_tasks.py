"""Background tasks: one that never began leaves no complaint of Python's behind."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest

from dataplane.control.tasks import first_error, spawn
from dataplane.errors import BadInput


async def for_ever() -> None:
    await asyncio.Event().wait()


def test_work_of_a_group_that_ends_at_once_is_closed() -> None:
    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            spawn(group, "never begun", for_ever())
            raise BadInput("wrong flag")

    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        with pytest.raises(BaseExceptionGroup) as ended:
            asyncio.run(scenario())
        assert str(first_error(ended.value)) == "wrong flag"
        del ended
        gc.collect()
    assert [str(complaint.message) for complaint in complaints] == []
