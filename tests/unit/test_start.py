"""What a start waits for, and what it does not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dataplane.daemon import run
from dataplane.errors import OutOfSubnets, StoreBusy, StoreError
from dataplane.observe.state import NodeState


def ask(monkeypatch: pytest.MonkeyPatch, *errors: StoreError) -> tuple[int, list[str]]:
    """Ask a store that raises these, then answers; return how often it was asked, and what blocked the start."""
    monkeypatch.setattr(run, "acquire_s", 0.0)
    monkeypatch.setattr(run, "acquire_retry_s", 0.0)
    state, nothing, asked = NodeState(), Any, []
    left = list(errors)

    async def store() -> int:
        asked.append(state.blockers.get("acquire", ""))
        if left:
            raise left.pop(0)
        return len(asked)

    life = run._Life(nothing, state, nothing, nothing, nothing, nothing, nothing, nothing, nothing)  # type: ignore[arg-type]
    count = asyncio.run(life._patiently(store))
    assert "acquire" not in state.blockers
    return count, asked


def test_a_busy_store_is_waited_for_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = StoreBusy("store busy")
    assert ask(monkeypatch, busy, busy, busy) == (4, ["", *["no lease yet: store busy"] * 3])


@pytest.mark.parametrize("error", [StoreError("damaged"), OutOfSubnets("none is free")])
def test_another_trouble_ends_the_start(monkeypatch: pytest.MonkeyPatch, error: StoreError) -> None:
    with pytest.raises(type(error), match=str(error)):
        ask(monkeypatch, StoreBusy("store busy"), error)
