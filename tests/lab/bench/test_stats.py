"""The benchmarks' arithmetic: medians and ratios, the search for the peak, targets, and the refusal to call noise a difference."""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from dataplane.lab.bench.compare import Row, by_chance, compare
from dataplane.lab.bench.document import BadDocument, Document, compose, read
from dataplane.lab.bench.metrics import Sample, metrics
from dataplane.lab.bench.quiet import Quiet, most_attempts, read_busy
from dataplane.lab.bench.report import page
from dataplane.lab.bench.search import Step, most_steps, search
from dataplane.lab.bench.stats import rank_p, ratio_interval, summarise
from dataplane.lab.bench.tables import cell_text
from dataplane.lab.bench.targets import judge
from dataplane.lab.bench.workloads import read_iperf3, read_step, workloads
from dataplane.lab.commands import LabError


def samples(contestant: str, metric: str, values: list[float], underlay: str = "offloads") -> list[Sample]:
    return [Sample(underlay, contestant, metric, number, value) for number, value in enumerate(values, 1)]


def document(*rows: list[Sample]) -> Document:
    return Document("x.json", [sample for row in rows for sample in row], {})


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


class Channel:
    """A path that carries up to `capacity`, and beyond it `collapse` of that; or one that holds its sender back."""

    def __init__(self, capacity: float, collapse: float = 1.0, holds_back: bool = False) -> None:
        self.capacity, self.collapse, self.holds_back = capacity, collapse, holds_back
        self.asked: list[float] = []

    def __call__(self, rate: float) -> Step:
        self.asked.append(rate)
        sent = min(rate, self.capacity) if self.holds_back else rate
        received = sent if sent <= self.capacity else self.capacity * self.collapse
        return Step(rate, sent, received, 1.0, int(received))


@pytest.mark.parametrize("capacity", [20e3, 90e3, 300e3, 310e3, 700e3])
@pytest.mark.parametrize("collapse", [1.0, 0.3])
def test_search_comes_close_to_the_capacity_in_bounded_steps(capacity: float, collapse: float) -> None:
    channel = Channel(capacity, collapse)
    best = search(channel, 300e3)
    assert best is not None
    assert capacity * 0.8 <= best.received <= capacity
    assert len(channel.asked) <= most_steps


def test_search_ends_where_the_sender_is_held_back() -> None:
    channel = Channel(100e3, holds_back=True)
    best = search(channel, 300e3)
    assert best is not None
    assert best.received == 100e3
    assert len(channel.asked) == 1


def test_search_finds_nothing_where_everything_is_lost() -> None:
    channel = Channel(0.0)
    assert search(channel, 300e3) is None
    assert len(channel.asked) == most_steps


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


def test_documents_are_read_back_and_damage_is_named(tmp_path: Path) -> None:
    rows = samples("kernel", "tcp1", [10.0, 11.0])
    path = tmp_path / "result.json"
    path.write_text(json.dumps(compose(rows, ["x failed"], {"rounds": 2}, "2026-01-01T00:00:00+00:00", 3.0)))
    found = read(str(path))
    assert found.samples == rows
    assert found.context["options"] == {"rounds": 2}
    with pytest.raises(BadDocument, match="No such file"):
        read(str(tmp_path / "none.json"))
    for text, said in (
        ("{", "no JSON"),
        ("[]", "not a result"),
        ('{"format": 99, "samples": []}', "not a result"),
        ('{"format": 1}', "samples"),
        (json.dumps({"format": 1, "samples": [{**asdict(rows[0]), "value": "10"}]}), "not a number"),
    ):
        path.write_text(text)
        with pytest.raises(BadDocument, match=said):
            read(str(path))


def test_iperf3_and_udpload_are_read() -> None:
    intervals = [{"sum": {"bytes": 5e8, "omitted": True}}, {"sum": {"bytes": 1e9}}]
    text = json.dumps({"end": {"sum_received": {"bits_per_second": 8e9}}, "intervals": intervals})
    assert read_iperf3(text) == (8.0, 1.5e9)
    for bad in (
        "",
        "{}",
        '{"error": "unable to connect"}',
        text.replace("1000000000.0", "0").replace("500000000.0", "0"),
    ):
        with pytest.raises(LabError):
            read_iperf3(bad)
    step = read_step(1000, {"packets": 500, "seconds": 0.5}, {"packets": 499}, 0.1)
    assert (step.sent, step.received, step.loss) == (1000, 998, pytest.approx(0.002))


def test_cpu_time_counts_work_and_not_waiting() -> None:
    assert read_busy("cpu  100 10 200 5000 300 1 20 3 7 7\ncpu0 1 1 1\n") == pytest.approx(3.34)


def test_a_disturbed_measurement_is_repeated_for_what_happened_around_it_only() -> None:
    clock = iter(range(10_000))
    shares = iter([0.0, 0.9, 0.5, 0.0, 0.0])  # quiet; disturbed after; wait once; quiet; quiet after
    runs = iter(["first", "second"])
    quiet = Quiet(1000, lambda: next(shares), lambda: float(next(clock)))
    assert quiet.measure(lambda: next(runs)) == ("second", True)
    patient = Quiet(0, lambda: 0.9, lambda: float(next(clock)))
    assert patient.measure(lambda: "kept") == ("kept", False)
    counted: list[int] = []
    shares = iter([0.0, 0.9] * most_attempts)
    restless = Quiet(1e9, lambda: next(shares), lambda: float(next(clock)))
    assert restless.measure(lambda: counted.append(1)) == (None, False)
    assert len(counted) == most_attempts


def test_every_workload_gives_metrics_that_are_known() -> None:
    assert set(workloads) - {"rtt"} <= set(metrics)
    assert all(metric.key == key for key, metric in metrics.items())


def test_report_is_one_page_that_fetches_nothing_and_shows_every_figure() -> None:
    rows = samples("kernel", "tcp1", [10.0, 12.0]) + samples("dataplane", "tcp1", [6.0, 7.0])
    text = page(compose(rows, ["a <failure>"], {"rounds": 2}, "2026-01-01T00:00:00+00:00", 3.0), rows)
    assert "6.50 [6.00–7.00] 0.59" in text
    assert "not reached" in text
    assert "a &lt;failure&gt;" in text
    assert "<svg" in text or "matplotlib is not installed" in text
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text.replace("xlink:href", "href"))


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
