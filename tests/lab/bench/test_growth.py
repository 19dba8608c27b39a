"""Growth as far as it goes without measuring: the cases, ratios within a round, the verdicts, what a failed run leaves."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dataplane.lab.bench.growth import Case, Cost, Group, Growth, groups, many, summarise
from dataplane.lab.bench.results.document import compose
from dataplane.lab.bench.results.report import page
from dataplane.lab.bench.results.tables import cost_cells
from dataplane.lab.bench.results.targets import judge_growth

base = Case("send", "kernel", 2, 2, 1, "64")
large = replace(base, peers=many)
pair = Group("send, 64 B: peers, 2 busy", {"2": base, "10,000": large}, judged=True)


def costs(*rounds: tuple[float, float], disturbed: bool = False) -> list[Cost]:
    """Runs of `base` and `large`, round by round."""
    found = []
    for number, values in enumerate(rounds, 1):
        found += [Cost(case, number, ns, 0, disturbed) for case, ns in zip((base, large), values, strict=True)]
    return found


def growth(tmp_path: Path, script: str, said: list[str]) -> Growth:
    """A run of one round whose program is the script."""
    program = tmp_path / "growth"
    program.write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    program.chmod(0o755)
    return Growth(str(program), [pair], 1, 640, 1, 0, said.append)


def test_ratios_are_taken_within_a_round() -> None:
    # The machine is three times slower in the second round: the ratio of the medians would be 2.2.
    rows = summarise([pair], costs((100.0, 110.0), (300.0, 330.0), (100.0, 220.0)))
    assert [row.ratio for row in rows] == [1.0, pytest.approx(1.1)]
    assert (rows[1].ns, rows[1].low, rows[1].high) == (220.0, 110.0, 330.0)


def test_disturbed_rounds_count_only_where_there_is_nothing_else() -> None:
    noisy = [replace(cost, round=9) for cost in costs((100.0, 900.0), disturbed=True)]
    assert summarise([pair], [*costs((100.0, 104.0)), *noisy])[1].ratio == pytest.approx(1.04)
    alone = summarise([pair], noisy)
    assert (alone[1].ratio, alone[1].disturbed) == (9.0, True)
    assert [verdict.reached for verdict in judge_growth(alone)] == [None]
    assert cost_cells(alone[1]) == ["10,000", "900.0", "[900.0–900.0]*", "9.00"]


@pytest.mark.parametrize(("ns", "reached"), [(105.0, True), (105.1, False)])
def test_ten_thousand_peers_may_cost_5_percent_more(ns: float, reached: bool) -> None:
    verdicts = judge_growth(summarise([pair], costs((100.0, ns))))
    assert [(verdict.title, verdict.reached) for verdict in verdicts] == [
        ("10,000 ÷ 2 peers, 2 busy: send, 64 B, ns", reached)
    ]
    assert judge_growth(summarise([replace(pair, judged=False)], costs((100.0, ns)))) == []


def test_a_case_without_its_base_gives_no_row() -> None:
    assert summarise([pair], [Cost(large, 1, 100.0, 0)]) == []
    assert summarise([pair], []) == []


@pytest.mark.parametrize("quick", [True, False])
def test_groups_compare_with_two_peers_or_one_flow_and_judge_both_ways(quick: bool) -> None:
    found = groups(quick)
    assert len({group.title for group in found}) == len(found)
    judged = [group for group in found if group.judged]
    assert {(group.cases["10,000"].way, group.cases["10,000"].edge) for group in judged} == {
        ("send", "kernel"),
        ("receive", "core"),
    }
    for group in judged:
        first, last = next(iter(group.cases.values())), group.cases["10,000"]
        assert first == replace(last, peers=2, busy=2)
        assert first.flows == (256 if first.single else 1)
    cases = {case for group in found for case in group.cases.values()}
    if not quick:
        assert {case.peers for case in cases} == {2, 100, 1_000, 10_000}
        assert {case.flows for case in cases} == {1, 4, 16, 64, 256}
    assert {case.size for case in cases} == {"64", "1400", "mix"}


def test_a_run_keeps_every_cost_and_tells_the_program_what_to_do(tmp_path: Path) -> None:
    said: list[str] = []
    run = growth(tmp_path, "print(sys.argv[2] + '.5', 0, 100)", said)
    run.run()
    assert {(cost.case.peers, cost.ns, cost.tables) for cost in run.costs} == {
        (2, 2.5, 100.0),
        (many, many + 0.5, 100.0),
    }
    assert run.failures == []
    assert replace(large, single=True, churn=True).words(640) == [
        "send",
        "10000",
        "2",
        "1",
        "64",
        "kernel",
        "3200",
        "single",
        "churn",
    ]


def test_a_lost_packet_is_a_failure_and_gives_no_figure(tmp_path: Path) -> None:
    said: list[str] = []
    run = growth(tmp_path, "print('90.0 3 0'); sys.exit(sys.argv[2] == '10000')", said)
    run.run()
    assert [cost.case for cost in run.costs] == [base]
    assert run.failures == ["growth send 10000 2 1 64 kernel 640: exit code 1 (ns, lost, tables/s: 90.0 3 0)"]
    assert any("FAILED" in text for text in said)


def test_document_and_report_carry_every_run_and_the_verdict(tmp_path: Path) -> None:
    run = growth(tmp_path, "", [])
    run.costs = costs((100.0, 150.0))
    document = json.loads(json.dumps(compose([], [], {}, "2026-01-01T00:00:00+00:00", 1.0, (), run)))
    assert [row["ns"] for row in document["growth"]["samples"]] == [100.0, 150.0]
    assert [row["ratio"] for row in document["growth"]["summaries"]] == [1.0, 1.5]
    assert [(row["value"], row["reached"]) for row in document["targets"]] == [(1.5, False)]
    text = page(document, [], summarise(run.groups, run.costs))
    assert "<td>150.0</td><td>[150.0–150.0]</td><td>1.50</td>" in text
    assert "not reached" in text
