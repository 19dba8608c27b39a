"""`dataplane bench` as a command, as far as it goes without a lab: its words, and --compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataplane.cli import main
from dataplane.lab.bench.metrics import Sample
from dataplane.lab.bench.results.document import compose


def write(path: Path, ours: list[float]) -> str:
    rows = [Sample("wire", "kernel", "tcp1", number, 10.0) for number in range(1, 6)]
    rows += [Sample("wire", "dataplane", "tcp1", number, value) for number, value in enumerate(ours, 1)]
    path.write_text(json.dumps(compose(rows, [], {}, "2026-01-01T00:00:00+00:00", 1.0)))
    return str(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--underlay", "cloud"], "'cloud': allowed are offloads, segmenting, wire"),
        (["--only", "tcp2"], "'tcp2': allowed are kernel, bare"),
        (["--rounds", "0"], "'0': allowed is a whole number from 1 to 100"),
        (["--compare", "one.json"], "expected 2 arguments"),
    ],
)
def test_wrong_words_end_with_2_and_say_what_is_allowed(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_compare_ends_with_1_where_something_became_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast = write(tmp_path / "fast.json", [8.0, 8.1, 8.2, 7.9, 7.8])
    slow = write(tmp_path / "slow.json", [6.0, 6.1, 6.2, 5.9, 5.8])
    assert main(["bench", "--compare", fast, slow]) == 1
    assert "wire dataplane TCP 1 stream: worse, lower by 25 % (" in capsys.readouterr().out
    assert main(["bench", "--compare", slow, fast]) == 0
    assert "1 better, of 1" in capsys.readouterr().out
    assert main(["bench", "--compare", fast, fast]) == 0
    assert "no difference shown" in capsys.readouterr().out


def test_compare_names_the_file_that_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "good.json", [8.0])
    assert main(["bench", "--compare", good, str(tmp_path / "gone.json")]) == 1
    assert "gone.json: No such file" in capsys.readouterr().err
