"""Two runs compared: a clear change is told, and noise is not called one."""

from __future__ import annotations

import random

from dataplane.lab.bench.metrics import Sample
from dataplane.lab.bench.results.compare import Row, by_chance, compare
from dataplane.lab.bench.results.document import Document
from tests.lab.bench.samples import samples


def document(*rows: list[Sample]) -> Document:
    return Document("x.json", [sample for row in rows for sample in row], {})


def compared(old: list[float], new: list[float], metric: str = "tcp1") -> Row:
    kernel = samples("kernel", metric, [10.0] * 5)
    (row,) = compare(
        document(kernel, samples("dataplane", metric, old)), document(kernel, samples("dataplane", metric, new))
    )
    return row


def test_a_clear_change_is_told_with_its_size_and_direction() -> None:
    slower = compared([10, 10.1, 9.9, 10.2, 9.8], [8, 8.1, 7.9, 8.2, 7.8])
    assert slower.outcome == "worse"
    assert "worse, lower by 20 % (" in str(slower)
    assert compared([8, 8.1, 7.9, 8.2, 7.8], [10, 10.1, 9.9, 10.2, 9.8]).outcome == "better"
    # Of a round trip, less is better.
    assert compared([20, 21, 20.5, 20.2, 20.8], [30, 31, 30.5, 30.2, 30.8], "rtt_p50").outcome == "worse"


def test_noise_is_not_a_difference() -> None:
    assert compared([10, 8, 12, 9, 11], [9, 11.5, 8.5, 10.5, 7.5]).outcome == "no difference shown"
    # Apart without overlap, but by less than the tolerance.
    assert (
        compared([10, 10.01, 10.02, 10.03, 10.04], [10.05, 10.06, 10.07, 10.08, 10.09]).outcome == "no difference shown"
    )


def test_chance_alone_shows_no_more_than_is_said() -> None:
    dice = random.Random(20)
    rows = [compared([dice.gauss(10, 2) for _ in range(5)], [dice.gauss(10, 2) for _ in range(5)]) for _ in range(120)]
    assert sum(row.outcome in ("better", "worse") for row in rows) <= by_chance(rows) * 2.5


def test_too_few_samples_say_nothing() -> None:
    row = compared([10, 10, 10], [5, 5, 5])
    assert row.outcome == "too few samples"
    assert by_chance([row]) == 0
    disturbed = [Sample("offloads", "dataplane", "tcp1", number, 5.0, number > 2) for number in range(1, 6)]
    kernel = samples("kernel", "tcp1", [10.0] * 5)
    (row,) = compare(document(kernel, samples("dataplane", "tcp1", [10.0] * 5)), document(kernel, disturbed))
    assert row.outcome == "too few samples"


def test_a_machine_that_became_slower_is_not_our_regression() -> None:
    ours, slower = [5.0, 5.1, 4.9, 5.2, 4.8], [2.5, 2.55, 2.45, 2.6, 2.4]
    old = document(samples("kernel", "tcp1", [10.0] * 5), samples("dataplane", "tcp1", ours))
    new = document(samples("kernel", "tcp1", [5.0] * 5), samples("dataplane", "tcp1", slower))
    (row,) = compare(old, new)
    assert row.outcome == "no difference shown"
