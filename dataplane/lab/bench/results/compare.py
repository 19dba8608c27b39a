"""Whether a newer result differs from an older one, as far as few and noisy samples can show it.

Two tests must agree before a difference is claimed: the rank-sum test over the samples, and a bootstrap interval of the
ratio that keeps clear of 1 by `tolerance`. Levels drift with the machine from run to run, so each of our samples is first
divided by the anchor's sample of the same round, where there is one. Five samples against five can show no more than
p = 0.008, so the many rows are not corrected for; `by_chance` says how many chance alone would show. What must stay
true: noise is not called a difference; where the samples are too few to show anything, that is said instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median
from typing import Literal

from dataplane.lab.bench.metrics import Sample, anchor, metrics
from dataplane.lab.bench.results.document import Document
from dataplane.lab.bench.results.stats import Cell, rank_p, ratio_interval

tolerance = 0.02
significance = 0.02
Outcome = Literal["better", "worse", "no difference shown", "too few samples"]


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one contestant on one underlay, old and new.

    Attributes:
        ratio, low, high: new ÷ old, and its 95 % interval; 0 where there is no outcome to give them for.
        p: of the rank-sum test.
    """

    underlay: str
    contestant: str
    metric: str
    outcome: Outcome
    ratio: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        title = f"{self.underlay} {self.contestant} {metrics[self.metric].title}"
        if self.outcome == "too few samples":
            return f"{title}: too few samples to show anything"
        percent = [100 * abs(value - 1) for value in (self.ratio, self.low, self.high)]
        if self.outcome == "no difference shown":
            return f"{title}: no difference shown (×{self.low:.2f}..×{self.high:.2f})"
        least, most = sorted(percent[1:])
        way = "higher" if self.ratio > 1 else "lower"
        return f"{title}: {self.outcome}, {way} by {percent[0]:.0f} % ({least:.0f}..{most:.0f})"


def compare(old: Document, new: Document) -> list[Row]:
    """Compare all that both documents have, the anchor's own figures left out where others are compared to them."""
    before, after = _relative(old.samples), _relative(new.samples)
    shared = [cell for cell in before if cell in after]
    return [_row(cell, before[cell], after[cell]) for cell in shared]


def by_chance(rows: Sequence[Row]) -> float:
    """Return how many of the rows would show a difference at most if there were none anywhere."""
    return significance * sum(row.outcome != "too few samples" for row in rows)


def _relative(samples: Sequence[Sample]) -> dict[Cell, list[float]]:
    """Return the values by cell, each divided by the anchor's of the same round; disturbed and zero ones left out."""
    usable = [
        sample
        for sample in samples
        # Counts of losses are mostly 0, and have no ratios; the silences beside them are compared.
        if not sample.disturbed
        and sample.value > 0
        and sample.metric in metrics
        and not sample.metric.endswith("_lost")
    ]
    base = {
        (sample.underlay, sample.metric, sample.round): sample.value for sample in usable if sample.contestant == anchor
    }
    found: dict[Cell, list[float]] = {}
    for sample in usable:
        value = sample.value
        if not sample.metric.endswith("_twice") and base:
            if sample.contestant == anchor:
                continue
            level = base.get((sample.underlay, sample.metric, sample.round))
            if level is None:
                continue
            value /= level
        found.setdefault((sample.underlay, sample.contestant, sample.metric), []).append(value)
    return found


def _row(cell: Cell, old: Sequence[float], new: Sequence[float]) -> Row:
    # The rarest dealing of the ranks, either way round: below this no samples can ever get.
    if 2 / comb(len(old) + len(new), len(old)) > significance:
        return Row(*cell, "too few samples", 0, 0, 0, 1)
    low, high = ratio_interval(old, new)
    ratio, p = median(new) / median(old), rank_p(old, new)
    outcome: Outcome = "no difference shown"
    if p <= significance and (low > 1 + tolerance or high < 1 - tolerance):
        outcome = "better" if (low > 1) == metrics[cell[2]].higher else "worse"
    return Row(*cell, outcome, ratio, low, high, p)
