"""The first thing that `dataplane run` does: forward as the daemon before it did, while everything else is still to be loaded.

What must stay true: the words are read here as `flags` reads them later, as far as it goes, and nothing heavy is imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataplane.takeover.inherited import Inherited

default_run_dir = "/run/dataplane"


def begin(words: Sequence[str]) -> Inherited | None:
    """Take the run directory, and forward; None where that cannot be, or is not asked for."""
    run_dir = run_dir_of(words, os.environ)
    if run_dir is None:
        return None
    from dataplane.takeover.early import begin as begin_in

    return begin_in(run_dir, os.environ)


def run_dir_of(words: Sequence[str], environment: Mapping[str, str]) -> Path | None:
    """The run directory that these words ask for; None where they ask for no daemon."""
    value = environment.get("FLANNELD_RUN_DIR") or default_run_dir
    rest = iter(words)
    for word in rest:
        name, equals, text = word.lstrip("-").partition("=")
        if not word.startswith("-"):
            continue
        if name in ("h", "help", "version"):
            return None
        if name == "run-dir":
            value = text if equals else next(rest, "")
    return Path(value) if value else None
