"""The benchmarks' arithmetic: medians, ratios and what they are worth."""

from __future__ import annotations

import pytest

from dataplane.lab.bench.metrics import Sample
from dataplane.lab.bench.results.stats import rank_p, ratio_interval, summarise
from dataplane.lab.bench.results.tables import cell_text
from dataplane.lab.bench.results.targets import judge
from tests.lab.bench.samples import samples


def test_summary_has_median_spread_and_ratio_to_the_kernels_median() -> None:
    found = summarise(samples("kernel", "tcp1", [9.0, 10.0, 14.0]) + samples("dataplane", "tcp1", [8.0, 4.0, 5.0]))
    ours = found["offloads", "dataplane", "tcp1"]
    assert (ours.median, ours.low, ours.high, ours.count, ours.ratio) == (5.0, 4.0, 8.0, 3, 0.5)
    assert found["offloads", "kernel", "tcp1"].ratio == 1.0


def test_no_ratio_without_the_kernel_on_the_same_underlay() -> None:
    found = summarise(samples("kernel", "tcp1", [9.0], "wire") + samples("dataplane", "tcp1", [8.0]))
    assert found["offloads", "dataplane", "tcp1"].ratio is None
    assert cell_text("tcp1", found["offloads", "dataplane", "tcp1"]) == "8.00 [8.00–8.00]"
    assert cell_text("tcp1", None) == "–"


def test_rank_test_is_exact() -> None:
    assert rank_p([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == pytest.approx(2 / 252)
    assert rank_p([1, 2, 3], [1, 2, 3]) == 1.0
    # Large sets are sampled; a far separation is still seen, none is not.
    assert rank_p(list(range(20)), list(range(100, 120))) < 0.001
    assert rank_p([1.0, 2.0] * 10, [1.0, 2.0] * 10) > 0.5


def test_ratio_interval_holds_the_ratio_and_is_repeatable() -> None:
    old, new = [10.0, 10.1, 9.9, 10.2, 9.8], [12.0, 12.1, 11.9, 12.2, 11.8]
    low, high = ratio_interval(old, new)
    assert low <= 1.2 <= high
    assert high - low < 0.1
    assert ratio_interval(old, new) == (low, high)


def test_disturbed_samples_count_only_where_there_is_nothing_else() -> None:
    rows = [Sample("offloads", "kernel", "tcp1", 1, 10.0), Sample("offloads", "kernel", "tcp1", 2, 2.0, disturbed=True)]
    rows += [Sample("offloads", "dataplane", "tcp1", 1, 3.0, disturbed=True)]
    found = summarise(rows)
    assert (found["offloads", "kernel", "tcp1"].median, found["offloads", "kernel", "tcp1"].count) == (10.0, 1)
    ours = found["offloads", "dataplane", "tcp1"]
    assert (ours.median, ours.disturbed) == (3.0, True)
    # Neither a ratio nor a verdict comes of a disturbed figure beside a quiet one.
    assert cell_text("tcp1", ours) == "3.00 [3.00–3.00]*"
    assert {verdict.value for verdict in judge(found)} == {None}
