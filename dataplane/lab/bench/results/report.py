"""The report: one HTML page with the machine, the targets, a table and plots for each underlay; nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from dataplane.lab.bench import growth
from dataplane.lab.bench.metrics import Sample, contestants, metrics, underlays
from dataplane.lab.bench.results import plots
from dataplane.lab.bench.results.stats import Cell, Summary, group, summarise
from dataplane.lab.bench.results.tables import cell_text, cost_cells
from dataplane.lab.bench.results.targets import Verdict, judge, judge_growth

_style = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.yes { color: #006b3c; } .no { color: #b00020; font-weight: 600; }
svg { max-width: 100%; height: auto; }
"""


def page(document: Mapping[str, Any], samples: Sequence[Sample], costs: Sequence[growth.Row] = ()) -> str:
    """Return the page for one run.

    Args:
        document: as `document.compose` made it.
        samples, costs: the same run's.
    """
    summaries, values = summarise(samples), group(samples)
    parts = [
        "<h1>dataplane bench</h1>",
        _context(document, samples),
        "<h2>Targets for our vxlan</h2>",
        _targets([*judge(summaries), *judge_growth(costs)]),
    ]
    drawing = plots.available()
    for underlay, meaning in underlays.items():
        if any(cell[0] == underlay for cell in summaries):
            parts.append(f"<h2>Underlay {escape(underlay)}</h2><p>{escape(meaning)}.</p>")
            parts.append(_results(underlay, summaries))
            parts.append(plots.draw(underlay, values) if drawing else "<p>No plots: matplotlib is not installed.</p>")
    if costs:
        parts.append("<h2>Growth</h2>" + _growth(costs))
    if document["failures"]:
        parts.append("<h2>What failed</h2>" + _list(document["failures"]))
    if document["left_out"]:
        parts.append("<h2>What could not be measured here</h2>" + _list(document["left_out"]))
    head = f"<meta charset=utf-8><title>dataplane bench</title><style>{_style}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>\n" + "\n".join(parts) + "\n</body></html>\n"


def _context(document: Mapping[str, Any], samples: Sequence[Sample]) -> str:
    machine, options = document["machine"], document["options"]
    disturbed = sum(sample.disturbed for sample in samples)
    return _list(
        [
            f"{document['started']}, commit {document['commit']}, {document['seconds']:.0f} s",
            f"Linux {machine['kernel']} on {machine['architecture']}, {machine['processors']} × {machine['processor']}"
            f"{', virtual' if machine['virtual'] else ''}, {machine['memory_gb']} GB, Python {machine['python']}",
            f"rounds: {options.get('rounds')}; order random within a round, seed {options.get('seed')}; "
            f"seconds of each TCP run {options.get('tcp_seconds')} after {options.get('tcp_warm_up_seconds')}, UDP step {options.get('udp_seconds')}, "
            f"round trips {options.get('rtt_seconds')}",
            f"pinned, node 1 with its pod on one processor and node 2 on another: {', '.join(options.get('pinned', []))}; "
            "the scheduler places the rest",
            "CPU is the whole machine's, so that the kernel's share counts wherever it is spent",
            f"{disturbed} of {len(samples)} samples were taken while others used the processors: they are left out below, "
            "except where there is nothing else (*)",
            *(f"{name}: {meaning}" for name, meaning in contestants.items()),
        ]
    )


def _targets(verdicts: Sequence[Verdict]) -> str:
    words = {True: ("reached", "yes"), False: ("not reached", "no"), None: ("not measured undisturbed", "")}
    rows = []
    for verdict in verdicts:
        word, kind = words[verdict.reached]
        value = "–" if verdict.value is None else f"{verdict.value:.2f}"
        rows.append(
            [escape(verdict.title), verdict.underlay, verdict.wanted, value, f'<span class="{kind}">{word}</span>']
        )
    return _table(["", "underlay", "wanted", "measured", ""], rows)


def _results(underlay: str, summaries: Mapping[Cell, Summary]) -> str:
    names = [name for name in contestants if any(cell[:2] == (underlay, name) for cell in summaries)]
    rows = [
        [escape(metric.title), metric.unit, *(cell_text(key, summaries.get((underlay, name, key))) for name in names)]
        for key, metric in metrics.items()
        if any((underlay, name, key) in summaries for name in names)
    ]
    caption = "<p>Median [least–greatest], then the ratio to the kernel's median in this run.</p>"
    return caption + _table(["", "unit", *names], rows)


def _growth(costs: Sequence[growth.Row]) -> str:
    caption = (
        "<p>What one packet costs our core's whole send or receive path: thread time in ns, median [least–greatest], then the "
        "median of the ratios to the first of its group in the same rounds. TUN and device take no part, received datagrams "
        "lie ready; the load alone is a part of every figure.</p>"
    )
    rows = [[escape(row.group), *map(escape, cost_cells(row))] for row in costs]
    return caption + _table(["", "", "ns", "", "ratio"], rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _list(items: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(str(item))}</li>" for item in items) + "</ul>"
