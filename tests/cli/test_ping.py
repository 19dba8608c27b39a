"""`dataplane ping`: colours for a terminal alone, and for nobody who asked for none. Whole nodes: tests/netns/reach."""

from __future__ import annotations

import sys

import pytest

from dataplane.cli.ping import _show
from dataplane.reach.measure import Result
from dataplane.reach.targets import targets
from tests.reach.documents import document


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colours(
    terminal: bool,
    no_color: str,
    coloured: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    _show([(Result(targets(document())[0], 1, [0.001], "", True, 1450), [])])
    assert ("\033[32m" in capsys.readouterr().out) == coloured


def test_sentences_keep_to_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    _show([(Result(target, 5), ["sent, nothing came back. " * 5]) for target in targets(document())])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) < 60
    assert not [line for line in lines if line != line.rstrip()]
