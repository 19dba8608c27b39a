"""The tests, those of one file at the place that it has in the package; and how a process of their own finds them."""

from __future__ import annotations

import os
from pathlib import Path

root = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """Return the environment of a process that imports this package, whatever directory it runs in."""
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{known}" if known else str(root)}
