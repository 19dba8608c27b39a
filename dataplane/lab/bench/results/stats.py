"""Statistics of few samples: medians, spreads, ratios to the anchor in the same rounds, and whether two sets differ.

Five samples say little, so nothing here assumes a distribution. What must stay true: a ratio is only ever taken
between samples of one run and one underlay; `difference` claims one only where chance would rarely show it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from statistics import median

from dataplane.lab.bench.metrics import Sample, anchor

Cell = tuple[str, str, str]  # underlay, contestant, metric

resamples = 4000
_exact_limit = 200_000


@dataclass(frozen=True, slots=True)
class Summary:
    """Some samples' median, least and greatest, how many there are, and the median's ratio to the anchor's median.

    Attributes:
        disturbed: others used the processors around every one of the samples.
    """

    median: float
    low: float
    high: float
    count: int
    ratio: float | None
    disturbed: bool = False


def group(samples: Iterable[Sample]) -> dict[Cell, list[Sample]]:
    """Return the samples by underlay, contestant and metric, the disturbed ones only where there are no others."""
    found: dict[Cell, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[sample.underlay, sample.contestant, sample.metric].append(sample)
    return {cell: [row for row in rows if not row.disturbed] or rows for cell, rows in found.items()}


def summarise(samples: Iterable[Sample]) -> dict[Cell, Summary]:
    """Return a summary of every cell; `ratio` is None where the anchor has no value, 0, or only disturbed ones."""
    used = group(samples)
    medians = {cell: median(row.value for row in rows) for cell, rows in used.items()}
    summaries = {}
    for (underlay, contestant, metric), rows in used.items():
        middle, base = medians[underlay, contestant, metric], medians.get((underlay, anchor, metric))
        values, disturbed = [row.value for row in rows], rows[0].disturbed
        # What others slowed down is not to be divided by what they did not.
        alike = base and used[underlay, anchor, metric][0].disturbed == disturbed
        summaries[underlay, contestant, metric] = Summary(
            middle, min(values), max(values), len(rows), middle / base if base and alike else None, disturbed
        )
    return summaries


def rank_p(old: Sequence[float], new: Sequence[float]) -> float:
    """Return the two-sided p value of the Wilcoxon rank-sum test: how often chance alone ranks them this far apart.

    Exact over all ways to deal the ranks out (ties share their mean rank); where there are too many ways, over a
    seeded sample of them.
    """
    ranks = _ranks([*old, *new])
    size, total = len(old), len(ranks)
    expected = size * (total + 1) / 2
    seen = abs(sum(ranks[:size]) - expected) - 1e-9
    if comb(total, size) <= _exact_limit:
        sums = [abs(sum(chosen) - expected) for chosen in combinations(ranks, size)]
        return sum(value >= seen for value in sums) / len(sums)
    dice = random.Random(1)
    far = sum(abs(sum(dice.sample(ranks, size)) - expected) >= seen for _ in range(resamples))
    return (far + 1) / (resamples + 1)


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    return [order.index(value) + (order.count(value) + 1) / 2 for value in values]


def ratio_interval(old: Sequence[float], new: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of median(new) / median(old); seeded, so the same samples give the same."""
    dice = random.Random(1)
    ratios = sorted(
        median(dice.choices(new, k=len(new))) / median(dice.choices(old, k=len(old))) for _ in range(resamples)
    )
    edge = round(resamples * 0.025)
    return ratios[edge], ratios[-1 - edge]
