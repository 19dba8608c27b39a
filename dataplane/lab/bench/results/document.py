"""The result of a run as JSON: machine, commit, options, every sample, summaries and verdicts; and reading it again.

What must stay true: every figure that is shown anywhere can be computed again from `samples`; `format` grows by one
when an older reader would misunderstand a newer document.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataplane.errors import DataplaneError
from dataplane.lab.bench import growth
from dataplane.lab.bench.metrics import Sample, metrics
from dataplane.lab.bench.results.stats import summarise
from dataplane.lab.bench.results.targets import judge, judge_growth
from dataplane.lab.bench.tools import root

format_number = 1


class BadDocument(DataplaneError):
    """A file is not what `dataplane bench --json` writes; the message says where."""


@dataclass(frozen=True, slots=True)
class Document:
    """A run that was read from a file."""

    path: str
    samples: list[Sample]
    context: dict[str, Any]


def compose(
    samples: Sequence[Sample],
    failures: Sequence[str],
    options: Mapping[str, Any],
    started: str,
    seconds: float,
    left_out: Sequence[str] = (),
    grown: growth.Growth | None = None,
) -> dict[str, Any]:
    """Return the whole document of one run.

    Args:
        started: UTC, ISO 8601.
        seconds: how long the run took.
        grown: None if growth was not measured.
    """
    summaries = summarise(samples)
    costs = growth.summarise(grown.groups, grown.costs) if grown else []
    return {
        "format": format_number,
        "started": started,
        "seconds": round(seconds, 1),
        "machine": machine(),
        "commit": commit(),
        "options": dict(options),
        "metrics": {key: asdict(metric) for key, metric in metrics.items()},
        "samples": [asdict(sample) for sample in samples],
        "summaries": [
            {"underlay": underlay, "contestant": contestant, "metric": metric, **asdict(summary)}
            for (underlay, contestant, metric), summary in summaries.items()
        ],
        "targets": [asdict(verdict) for verdict in [*judge(summaries), *judge_growth(costs)]],
        "growth": grown.document() if grown else None,
        "failures": list(failures),
        "left_out": list(left_out),
    }


def machine() -> dict[str, Any]:
    """Say what the figures were measured on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    flags = " hypervisor" in Path("/proc/cpuinfo").read_text()
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "processor": models[0].split(":", 1)[1].strip() if models else "unknown",
        "processors": len(os.sched_getaffinity(0)),
        "virtual": flags,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
    }


def commit() -> str:
    """Return the source tree's commit, "+changes" behind it where files differ; "unknown" without git."""
    try:
        words = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+changes", "--exclude=*"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else "unknown"


def read(path: str) -> Document:
    """Read a document; raises `BadDocument` naming the file and what is wrong with it."""
    try:
        raw = json.loads(Path(path).read_text())
    except OSError as error:
        raise BadDocument(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise BadDocument(f"{path}: no JSON: {error}") from error
    if not isinstance(raw, dict) or raw.get("format") != format_number:
        raise BadDocument(f"{path}: not a result of `dataplane bench --json` (format {format_number})")
    try:
        samples = [_sample(row) for row in raw["samples"]]
    except (KeyError, TypeError, ValueError) as error:
        raise BadDocument(f"{path}: a sample is damaged: {error!r}") from error
    return Document(path, samples, {key: raw.get(key) for key in ("machine", "commit", "options", "started")})


def _sample(row: Mapping[str, Any]) -> Sample:
    value = row["value"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"value: {value!r} is not a number")
    return Sample(
        str(row["underlay"]),
        str(row["contestant"]),
        str(row["metric"]),
        int(row["round"]),
        float(value),
        bool(row.get("disturbed")),
    )
