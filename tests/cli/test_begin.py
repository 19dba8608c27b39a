"""The run directory as it is found before flags are read is the one that the flags say."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from dataplane.cli import flags, settings
from dataplane.cli.begin import run_dir_of


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        ([], {}),
        (["--run-dir=/a"], {}),
        (["-run-dir", "/a", "--ip-masq"], {}),
        (["--ip-masq", "--run-dir", "/a b"], {"FLANNELD_RUN_DIR": "/b"}),
        (["-run-dir=/a", "--run-dir=/c"], {}),
        (["-v=1"], {"FLANNELD_RUN_DIR": "relative/b"}),
        (["--iface=run-dir"], {}),
        (["--public-ip", "192.0.2.1", "--run-dir=x"], {"FLANNELD_RUN_DIR": ""}),
    ],
)
def test_it_is_the_same(words: list[str], environment: dict[str, str]) -> None:
    parser = argparse.ArgumentParser()
    flags.add_flags(parser)
    args = parser.parse_args(flags.normalise(words))
    assert run_dir_of(words, environment) == settings.options(parser, args, environment).run_dir


@pytest.mark.parametrize("words", [["--version"], ["-h"], ["--help"], ["-version=true"], ["--run-dir="], ["--run-dir"]])
def test_where_no_daemon_is_asked_for_nothing_begins(words: list[str]) -> None:
    assert run_dir_of(words, {}) is None


def test_the_default_is_the_flags() -> None:
    assert Path(flags.default_run_dir) == flags.by_name["run-dir"].default
