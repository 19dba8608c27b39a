"""The footprint as a file: what is not of here, or cannot be read, is never taken for ours, written over or a traceback."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from dataplane.errors import BadInput, HostError
from dataplane.footprint import form, record
from dataplane.footprint.form import Footprint
from dataplane.footprint.removal import remove
from dataplane.runtime.place import Place, here

mac, other_mac = "02:00:00:00:00:01", "02:00:00:00:00:02"
net, subnet = IPv4Network("10.3.0.0/16"), IPv4Network("10.3.5.0/24")
ours = Footprint({"none-such": frozenset({mac})}, ("eth0",), (net,), (subnet,), False, False, "/nonexistent/subnet.env")
elsewhere = Place(here().boot, 1234, here().cookie + 1)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir(mode=0o755)
    return directory


def written(run_dir: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run_dir / "footprint.json").read_text())
    return document


def put(run_dir: Path, **changes: object) -> str:
    """Write ours with changes; None takes an entry away."""
    record.add(run_dir, ours)
    document = {key: value for key, value in (written(run_dir) | changes).items() if value is not None}
    (run_dir / "footprint.json").write_text(json.dumps(document))
    return json.dumps(document)


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


def test_of_an_earlier_boot_only_files_are_left(run_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "subnet.env"
    file.write_text("FLANNEL_NETWORK=10.3.0.0/16\nFLANNEL_SUBNET=10.3.5.1/24\n")
    put(run_dir, place={"boot": "another", "netns": 1, "cookie": 1}, subnet_file=str(file), devices={"lo": []})
    found = record.find(run_dir)
    assert found is not None and found[1].is_gone
    assert asyncio.run(remove(*found)) == ([str(file), str(found[0])], [])
    put(run_dir, place={"boot": "another", "netns": 1, "cookie": 1}, networks=["10.9.0.0/16"])
    record.add(run_dir, ours)
    assert record.read(run_dir) == ours


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


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"networks": ["10.3.0.0/16", "10.3.0.1/16", 7]}, "networks"),
        ({"subnets": None}, "subnets is missing"),
        ({"devices": {"none-such": [mac], "x" * 16: [], "../lo": [], "": []}}, "no name of a network interface"),
        ({"devices": {"none-such": [mac, "zz", "02:00"]}}, "none-such"),
        ({"interfaces": ["eth0", None, "\x1b[2J"]}, "interfaces"),
        ({"subnet_file": ["a\0b"]}, "no path"),
        ({"networks": [f"10.{n // 256}.{n % 256}.0/24" for n in range(300)]}, "more than 256 networks"),
    ],
)
def test_what_can_be_read_is_done_and_the_rest_named(run_dir: Path, changes: dict[str, object], fault: str) -> None:
    put(run_dir, **changes)
    found = record.find(run_dir)
    assert found is not None and found[1].devices == ours.devices and found[1].interfaces == ours.interfaces
    with pytest.raises(HostError, match=fault):
        asyncio.run(remove(*found))
    assert found[0].exists()
    record.add(run_dir, ours)
    after = record.read(run_dir)
    assert after is not None and not after.faults and (run_dir / "footprint.json.bad").exists()


@pytest.mark.parametrize("kind", ["link", "directory", "another node's"])
def test_a_subnet_file_that_is_not_ours_is_left(run_dir: Path, tmp_path: Path, kind: str) -> None:
    file, target = tmp_path / "subnet.env", tmp_path / "target"
    target.write_text("FLANNEL_NETWORK=10.3.0.0/16\nFLANNEL_SUBNET=10.3.5.1/24\n")
    if kind == "link":
        file.symlink_to(target)
    elif kind == "directory":
        file.mkdir()
    else:
        file.write_text("FLANNEL_NETWORK=10.3.0.0/16\nFLANNEL_SUBNET=10.3.6.1/24\n")
    put(run_dir, subnet_file=str(file))
    found = record.find(run_dir)
    assert found is not None
    done, left = asyncio.run(remove(*found))
    assert done == [str(found[0])]
    assert len(left) == 1 and left[0].startswith(str(file))
    assert os.path.lexists(file) and target.exists()
