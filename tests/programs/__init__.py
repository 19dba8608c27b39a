"""Small programs that tests run inside of namespaces, each a file of its own that needs nothing but Python (and scapy)."""

from __future__ import annotations

import sys
from pathlib import Path


def program(name: str, *words: object) -> list[str]:
    """Return the command line of one, by its file's name without .py."""
    return [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *map(str, words)]
