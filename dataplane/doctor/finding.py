"""What a check found: a level, a sentence, and the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """OK; WARN: it may do harm, or could not be looked at; FAIL: packets are lost, or the daemon does not start."""

    ok = "OK"
    warn = "WARN"
    fail = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        check: the area: "port", "firewall" …
        mend: commands for a shell; "" where there is nothing to do.
    """

    check: str
    level: Level
    text: str
    mend: str = ""


def ok(check: str, text: str) -> Finding:
    """Return that all is well."""
    return Finding(check, Level.ok, text)


def warn(check: str, text: str, mend: str) -> Finding:
    """Return what may do harm."""
    return Finding(check, Level.warn, text, mend)


def fail(check: str, text: str, mend: str) -> Finding:
    """Return what keeps packets from their way."""
    return Finding(check, Level.fail, text, mend)
