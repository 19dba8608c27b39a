"""Documents of runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from dataplane.lab.bench.results.document import BadDocument, compose, read
from tests.lab.bench.samples import samples


def test_documents_are_read_back_and_damage_is_named(tmp_path: Path) -> None:
    rows = samples("kernel", "tcp1", [10.0, 11.0])
    path = tmp_path / "result.json"
    path.write_text(json.dumps(compose(rows, ["x failed"], {"rounds": 2}, "2026-01-01T00:00:00+00:00", 3.0)))
    found = read(str(path))
    assert found.samples == rows
    assert found.context["options"] == {"rounds": 2}
    with pytest.raises(BadDocument, match="No such file"):
        read(str(tmp_path / "none.json"))
    for text, said in (
        ("{", "no JSON"),
        ("[]", "not a result"),
        ('{"format": 99, "samples": []}', "not a result"),
        ('{"format": 1}', "samples"),
        (json.dumps({"format": 1, "samples": [{**asdict(rows[0]), "value": "10"}]}), "not a number"),
    ):
        path.write_text(text)
        with pytest.raises(BadDocument, match=said):
            read(str(path))
