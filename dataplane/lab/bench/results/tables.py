"""The results as tables of text, for the terminal; rich draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dataplane.lab.bench.growth import Row
from dataplane.lab.bench.metrics import contestants, metrics, underlays
from dataplane.lab.bench.results.stats import Cell, Summary
from dataplane.lab.bench.results.targets import Verdict

_words = {True: "reached", False: "NOT reached", None: "not measured undisturbed"}


def cell_text(metric: str, summary: Summary | None) -> str:
    """Return "median [least–greatest] ratio", "–" where nothing was measured; "*": others used the processors throughout."""
    if summary is None:
        return "–"
    digits = metrics[metric].digits
    spread = f"{summary.median:.{digits}f} [{summary.low:.{digits}f}–{summary.high:.{digits}f}]"
    spread += "*" if summary.disturbed else ""
    return spread if summary.ratio is None else f"{spread} {summary.ratio:.2f}"


def result_tables(summaries: Mapping[Cell, Summary]) -> list[Table]:
    """Return one table for each underlay that was measured."""
    tables = []
    for underlay, meaning in underlays.items():
        names = [name for name in contestants if any(cell[:2] == (underlay, name) for cell in summaries)]
        if not names:
            continue
        table = Table(
            title=Text(f"{underlay}: {meaning}\nmedian [least–greatest] ratio to the kernel's median in this run"),
            title_justify="left",
        )
        table.add_column("")
        table.add_column("unit")
        for name in names:
            table.add_column(name, justify="right")
        for key, metric in metrics.items():
            row = [summaries.get((underlay, name, key)) for name in names]
            if any(row):
                table.add_row(metric.title, metric.unit, *(Text(cell_text(key, summary)) for summary in row))
        tables.append(table)
    return tables


def cost_cells(row: Row) -> list[str]:
    """Return ns per packet, their spread, and the ratio; "*": others used the processors throughout."""
    tables = f" ({row.tables:.0f} seen)" if row.tables else ""
    spread = f"[{row.low:.1f}–{row.high:.1f}]{'*' if row.disturbed else ''}"
    return [row.label + tables, f"{row.ns:.1f}", spread, f"{row.ratio:.2f}"]


def growth_table(rows: Sequence[Row]) -> Table:
    """Return the table of what a packet costs as a cluster grows, one section a group."""
    table = Table(
        title=Text(
            "growth: ns per packet, median [least–greatest], ratio to the first of its group in the same rounds"
        ),
        title_justify="left",
    )
    table.add_column("")
    for heading in ("", "ns", "", "ratio"):
        table.add_column(heading, justify="right")
    group = ""
    for row in rows:
        if row.group != group:
            table.add_section()
        table.add_row(Text("" if row.group == group else row.group), *map(Text, cost_cells(row)))
        group = row.group
    return table


def target_table(verdicts: Sequence[Verdict]) -> Table:
    """Return the table of what had to be reached and was, or was not."""
    table = Table(title="targets for our vxlan (medians)", title_justify="left")
    for heading in ("", "underlay", "wanted", "measured", ""):
        table.add_column(heading)
    for verdict in verdicts:
        value = "–" if verdict.value is None else f"{verdict.value:.2f}"
        table.add_row(verdict.title, verdict.underlay, verdict.wanted, value, _words[verdict.reached])
    return table


def show(
    console: Console, summaries: Mapping[Cell, Summary], verdicts: Sequence[Verdict], costs: Sequence[Row] = ()
) -> None:
    """Print all tables."""
    for table in [*result_tables(summaries), *([growth_table(costs)] if costs else [])]:
        console.print()
        console.print(table)
    console.print()
    console.print(target_table(verdicts))
