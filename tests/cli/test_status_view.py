"""Words for what status shows."""

from __future__ import annotations

import pytest

from dataplane.cli import status_view
from tests import root
from tests.observe.node import now_s


def test_every_drop_reason_has_a_word() -> None:
    header = (root / "csrc" / "include" / "dataplane.h").read_text()
    reasons = {
        line.split()[1].rstrip(";").removeprefix("drop_") for line in header.splitlines() if "uint64_t drop_" in line
    }
    kernels = {"tun_queue", "send_neighbour", "device_send", "device_receive"}
    assert reasons | kernels | {"forged_encap"} == set(status_view.drop_words)


@pytest.mark.parametrize("expires_in, text", [(None, "no end"), (-1, "expired"), (59, "59 s"), (7260, "2 h 1 min")])
def test_time_left(expires_in: float | None, text: str) -> None:
    expires = None if expires_in is None else now_s + expires_in
    assert text in status_view.time_left(expires, now_s)
