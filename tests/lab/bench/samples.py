"""Made-up samples, and documents of them."""

from __future__ import annotations

from dataplane.lab.bench.metrics import Sample


def samples(contestant: str, metric: str, values: list[float], underlay: str = "offloads") -> list[Sample]:
    return [Sample(underlay, contestant, metric, number, value) for number, value in enumerate(values, 1)]
