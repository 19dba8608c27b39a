"""The programs of bench/ that the path benchmarks run: built here if need be, from the source tree.

What must stay true: an installation without the source tree still benchmarks all that does not need them, and says
what is left out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dataplane.errors import DataplaneError

root = Path(__file__).resolve().parents[3]
_build = root / "build" / "bench"


class ToolsMissing(DataplaneError):
    """The programs are not there and cannot be built; the message says why."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Paths of the load generator, of the one-packet-per-syscall forwarder, and of the program that `growth` runs."""

    udpload: str
    plain_forwarder: str
    growth: str


def build() -> Tools:
    """Bring the programs up to date and return where they are; raises `ToolsMissing`."""
    if not (root / "bench" / "meson.build").exists():
        raise ToolsMissing("this installation has no source tree, and the load generator is built from it")
    names = ("udpload", "plain_forwarder", "growth")
    meson = shutil.which("meson", path=str(Path(sys.executable).parent)) or shutil.which("meson")
    if meson is None:
        raise ToolsMissing("meson is not installed: `make setup` installs it")
    if not (_build / "build.ninja").exists():
        _run(meson, "setup", str(_build), "-Dbench=true")
    _run(meson, "compile", "-C", str(_build), *names)
    return Tools(*(str(_build / "bench" / name) for name in names))


def _run(*words: str) -> None:
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolsMissing(f"{' '.join(words)}: {(done.stdout + done.stderr).strip()[-2000:]}")
