"""The workload "restart": its figures, its rows, and that it has labs of its own."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from dataplane.lab.bench import suite
from dataplane.lab.bench.metrics import contestants, metrics, restarts
from dataplane.lab.bench.restart import read_seen
from dataplane.lab.bench.results.compare import compare
from dataplane.lab.bench.results.document import Document
from dataplane.lab.bench.results.stats import summarise
from dataplane.lab.bench.results.tables import cell_text, result_tables
from dataplane.lab.bench.results.targets import judge
from dataplane.lab.bench.workloads import Workload, workloads
from dataplane.lab.commands import LabError
from dataplane.lab.steady import Seen
from tests.lab.bench.samples import samples

lost = "restart_takeover_lost"


def seen(lost: tuple[int, ...] = (), broken: str = "") -> Seen:
    return Seen(1000, lost, 0, 0.0125, 0.25, broken, 0)


@pytest.mark.parametrize("way", restarts)
def test_an_exchange_is_counts_and_milliseconds(way: str) -> None:
    values = read_seen(way, seen((500, 501, 502)))
    assert values == {f"restart_{way}_lost": 3, f"restart_{way}_udp": 12.5, f"restart_{way}_tcp": 250}
    assert [(metrics[key].unit, metrics[key].higher) for key in values] == [
        ("datagrams", False),
        ("ms", False),
        ("ms", False),
    ]


@pytest.mark.parametrize("bad", [seen(broken="Connection reset"), seen((998, 999)), Seen(0, (), 0, 0, 0, "", 0)])
def test_an_exchange_that_did_not_come_back_gives_no_figures(bad: Seen) -> None:
    with pytest.raises(LabError, match="restart by sigkill"):
        read_seen("sigkill", bad)


def test_the_rows_are_beside_both_of_the_kernels_and_say_that_one_of_them_restarts_nothing() -> None:
    rows = [
        row
        for key, values in ((lost, [0.0, 2.0, 0.0]), ("restart_takeover_udp", [8.0, 4.0, 6.0]))
        for name, factor in (("kernel", 0.5), ("dataplane", 1.0), ("dataplane-kernel", 1.0))
        for row in samples(name, key, [value * factor for value in values])
    ]
    summaries = summarise(rows)
    (table,) = result_tables(summaries)
    assert [column.header for column in table.columns] == ["", "unit", "kernel", "dataplane", "dataplane-kernel"]
    assert list(table.columns[0].cells) == [
        "restart (kernel: of nothing), takeover: lost",
        "restart (kernel: of nothing), takeover: UDP silent",
    ]
    assert cell_text(lost, summaries["offloads", "dataplane", lost]) == "0 [0–2]"
    assert [str(cell) for cell in table.columns[3].cells] == ["0 [0–2]", "6.0 [4.0–8.0] 2.00"]


@pytest.mark.parametrize(("values", "reached"), [([0.0, 0.0, 3.0], True), ([0.0, 1.0, 1.0], False)])
def test_a_takeover_is_to_lose_nothing_and_is_judged_only_where_it_was_measured(
    values: list[float], reached: bool
) -> None:
    verdicts = judge(summarise(samples("dataplane", lost, values) + samples("dataplane", "tcp1", [1.0], "wire")))
    assert [(verdict.underlay, verdict.reached) for verdict in verdicts if "takeover" in verdict.title] == [
        ("offloads", reached)
    ]


def test_counts_that_are_mostly_nothing_are_not_compared() -> None:
    rows = samples("dataplane", lost, [0.0, 0.0, 7.0, 0.0, 0.0]) + samples(
        "dataplane", "restart_sigterm_udp", [9.0] * 5
    )
    document = Document("x.json", rows, {})
    assert [row.metric for row in compare(document, document)] == ["restart_sigterm_udp"]


class FakeContestant:
    """Stands in for a lab; the workload sees which one it is given."""

    def __init__(self, name: str, *_: object) -> None:
        self.name = name

    def place(self, cpus: object) -> None:
        pass

    def drops(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        pass


def test_what_restarts_daemons_has_labs_of_its_own_on_the_first_underlay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "Contestant", FakeContestant)
    monkeypatch.setattr(suite, "kinds", dict.fromkeys(("offloads", "segmenting"), lambda: None))
    used: dict[str, set[tuple[str, str, Any]]] = {"tcp1": set(), "restart": set()}

    def note(key: str, bench: object, underlay: str, contestant: Any) -> dict[str, float]:
        used[key].add((underlay, contestant.name, contestant))
        return {key: 1.0}

    def noting(key: str) -> Workload:
        real = workloads[key]
        return Workload(key, False, False, partial(note, key), disrupts=real.disrupts, without=real.without)

    plan = suite.Plan(
        ["offloads", "segmenting"], list(contestants), [noting("restart"), noting("tcp1")], 2, 1, 1, 1, 1, 1, 0
    )
    run = suite.Suite(plan, None, lambda text: None)
    run.run()
    assert run.failures == []
    assert sorted(each[:2] for each in used["restart"]) == [
        ("offloads", "dataplane"),
        ("offloads", "dataplane-kernel"),
        ("offloads", "dataplane-udp"),
        ("offloads", "kernel"),
    ]
    assert {each[1] for each in used["tcp1"]} == set(contestants) - {"dataplane-kernel", "plain"}
    assert {each[0] for each in used["tcp1"]} == {"offloads", "segmenting"}
    assert not {each[2] for each in used["tcp1"]} & {each[2] for each in used["restart"]}
    assert {(sample.metric, sample.round) for sample in run.samples} == {
        (key, number) for key in used for number in (1, 2)
    }
