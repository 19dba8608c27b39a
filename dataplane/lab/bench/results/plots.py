"""The results as SVG, drawn by matplotlib where that is installed.

One panel for each metric, one line for each contestant: every sample is a dot, the median a bar. What must stay true:
no sample that the tables use is left out, nothing is smoothed, every axis begins at zero.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from statistics import median

from dataplane.lab.bench.metrics import Sample, contestants, metrics
from dataplane.lab.bench.results.stats import Cell

_colours = {  # apart for colour-blind eyes too (Okabe and Ito)
    "kernel": "#000000",
    "bare": "#999999",
    "dataplane": "#0072b2",
    "dataplane-udp": "#56b4e9",
    "plain": "#d55e00",
    "dataplane-kernel": "#cc79a7",
}
_columns = 3
_panel = (4.2, 1.7)  # inches


def available() -> bool:
    """Say whether plots can be drawn here."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def draw(underlay: str, samples: Mapping[Cell, Sequence[Sample]]) -> str:
    """Return an SVG element with one panel for each metric that was measured on `underlay`; needs `available()`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    values = {cell: [row.value for row in rows] for cell, rows in samples.items()}
    shown = [key for key in metrics if any(cell[0] == underlay and cell[2] == key for cell in values)]
    names = [name for name in contestants if any(cell[:2] == (underlay, name) for cell in values)]
    lines = -(-len(shown) // _columns)
    # Text stays text, and ids do not change from one drawing to the next.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": underlay, "font.size": 8}):
        figure = Figure(figsize=(_columns * _panel[0], lines * _panel[1]), layout="constrained")
        for index, key in enumerate(shown):
            axes = figure.add_subplot(lines, _columns, index + 1)
            for row, name in enumerate(reversed(names)):
                found = values.get((underlay, name, key))
                if found:
                    axes.barh(row, median(found), color=_colours[name], alpha=0.35)
                    axes.plot(found, [row] * len(found), ".", color=_colours[name], markersize=5)
            axes.set_yticks(range(len(names)), list(reversed(names)))
            axes.set_xlim(left=0)
            axes.set_title(f"{metrics[key].title} ({metrics[key].unit})", loc="left", fontsize=8)
            axes.spines[["top", "right"]].set_visible(False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
