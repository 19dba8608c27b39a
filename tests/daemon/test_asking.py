"""What a start waits for, and what it does not."""

from __future__ import annotations

import asyncio

import pytest

from dataplane.daemon import asking
from dataplane.errors import OutOfSubnets, StoreBusy, StoreError
from dataplane.observe.state import NodeState


def ask(monkeypatch: pytest.MonkeyPatch, *errors: StoreError) -> tuple[int, list[str]]:
    """Ask a store that raises these, then answers; return how often it was asked, and what blocked the start."""
    monkeypatch.setattr(asking, "acquire_s", 0.0)
    monkeypatch.setattr(asking, "acquire_retry_s", 0.0)
    state, asked = NodeState(), []
    left = list(errors)

    async def store() -> int:
        asked.append(state.blockers.get("acquire", ""))
        if left:
            raise left.pop(0)
        return len(asked)

    count = asyncio.run(asking.patiently(state, store))
    assert "acquire" not in state.blockers
    return count, asked


def test_a_busy_store_is_waited_for_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = StoreBusy("store busy")
    assert ask(monkeypatch, busy, busy, busy) == (4, ["", *["no lease yet: store busy"] * 3])


@pytest.mark.parametrize("error", [StoreError("damaged"), OutOfSubnets("none is free")])
def test_another_trouble_ends_the_start(monkeypatch: pytest.MonkeyPatch, error: StoreError) -> None:
    with pytest.raises(type(error), match=str(error)):
        ask(monkeypatch, StoreBusy("store busy"), error)
