"""Targets."""

from __future__ import annotations

import pytest

from dataplane.lab.bench.results.stats import summarise
from dataplane.lab.bench.results.targets import judge
from tests.lab.bench.samples import samples


def test_targets_are_judged_by_ratio_and_by_value() -> None:
    rows = samples("kernel", "tcp1", [10.0]) + samples("dataplane", "tcp1", [7.0]) + samples("plain", "tcp1", [2.0])
    rows += samples("kernel", "rtt_p50", [10.0]) + samples("dataplane", "rtt_p50", [26.0])
    rows += samples("dataplane", "udp64_twice", [0.9])
    verdicts = {verdict.title: verdict for verdict in judge(summarise(rows))}
    assert verdicts["TCP 1 stream ÷ kernel's"].reached is True
    assert verdicts["TCP 1 stream ÷ plain's"].reached is False
    assert verdicts["TCP 1 stream ÷ plain's"].value == pytest.approx(3.5)
    assert verdicts["round trip p50 ÷ kernel's"].reached is False
    assert verdicts["UDP 64 B offered twice, carried"].reached is True
    assert verdicts["TCP 4 streams ÷ kernel's"].reached is None
