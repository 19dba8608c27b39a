"""The footprint as a file: what is not of here, or cannot be read, is never taken for ours, written over or a traceback."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dataplane.errors import BadInput
from dataplane.footprint import form, record
from dataplane.runtime.place import Place, here
from tests.footprint.files import mac, other_mac, ours, put

elsewhere = Place(here().boot, 1234, here().cookie + 1)


def test_another_network_namespaces_is_refused_and_comes_back_to_it(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.add(run_dir, ours)
    mine = here()
    for module in (form, record):
        monkeypatch.setattr(module, "here", lambda: elsewhere)
    with pytest.raises(BadInput, match=rf"footprint.json is of another network namespace \(net:\[{mine.netns}\]"):
        record.find(run_dir)
    theirs = replace(ours, devices={"their-dev": frozenset({other_mac})}, interfaces=("eth7",), place=elsewhere)
    record.add(run_dir, theirs)
    assert record.read(run_dir) == theirs
    monkeypatch.undo()
    aside = run_dir / f"footprint.json.{mine.netns}"
    assert record.find(run_dir) == (aside, ours)
    record.add(run_dir, ours)
    assert record.find(run_dir) == (run_dir / "footprint.json", ours)
    assert sorted(os.listdir(run_dir)) == ["footprint.json", "footprint.json.1234"]


def test_one_without_a_place_is_taken_as_ours(run_dir: Path) -> None:
    put(run_dir, place=None, interfaces=None, devices=["none-such"], interface="eth1")
    found = record.read(run_dir)
    assert found == replace(ours, devices={"none-such": frozenset()}, interfaces=("eth1",), place=None)
    record.add(run_dir, ours)
    merged = record.read(run_dir)
    assert merged == replace(ours, devices={"none-such": frozenset()}, interfaces=("eth1", "eth0"))
    record.add(run_dir, ours, made=True)
    merged = record.read(run_dir)
    assert merged is not None and merged.devices == ours.devices


def test_earlier_interfaces_and_macs_are_kept(run_dir: Path) -> None:
    record.add(run_dir, ours)
    record.add(run_dir, replace(ours, devices={"none-such": frozenset({other_mac})}, interfaces=("eth1",)))
    found = record.read(run_dir)
    assert found is not None and found.interfaces == ("eth0", "eth1")
    assert found.devices == {"none-such": frozenset({mac, other_mac})}
    record.add(run_dir, ours)
    found = record.read(run_dir)
    assert found is not None and found.interfaces == ("eth1", "eth0")


def a_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def a_hard_link(path: Path) -> None:
    path.with_name("other").write_text("{}")
    os.link(path.with_name("other"), path)


def anothers(path: Path) -> None:
    path.write_text("{}")
    os.chown(path, 65534, 65534)


def many_entries(path: Path) -> None:
    path.write_text(json.dumps({"devices": [f"flannel.{n}" for n in range(1_000_000)]}))


def texts(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


@pytest.mark.parametrize(
    "make",
    [
        a_link,
        a_hard_link,
        anothers,
        os.mkfifo,
        Path.mkdir,
        many_entries,
        lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 34),
        texts(""),
        texts('{"devices": ['),
        texts("[" * 100_000),
        texts("null"),
        texts('{"place": 7}'),
        texts('{"place": {"boot": "x", "netns": "1", "cookie": 1}}'),
        texts("9" * 10_000),
        lambda path: path.write_bytes(b"\xff\xfe"),
    ],
)
def test_what_cannot_be_read_is_named_and_moved_aside(run_dir: Path, make: Callable[[Path], object]) -> None:
    path = run_dir / "footprint.json"
    make(path)
    with pytest.raises(BadInput, match=r"footprint\.json"):
        record.find(run_dir)
    assert os.path.lexists(path)
    record.add(run_dir, ours)
    assert record.read(run_dir) == ours
    assert os.path.lexists(run_dir / "footprint.json.bad")
