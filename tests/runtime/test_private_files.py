"""The run directory and what is in it: ours, or refused; a link is never followed, whoever made it and whatever it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from dataplane.cli.status import fetch
from dataplane.errors import BadInput, HostError
from dataplane.footprint import record
from dataplane.footprint.form import Footprint
from dataplane.footprint.rundir import run_directory
from dataplane.observe.health import Server
from dataplane.observe.state import NodeState

nobody = 65534
left = Footprint({}, ("eth0",), (IPv4Network("10.3.0.0/16"),), (), False, False, "/run/flannel/subnet.env")


def use(directory: Path) -> None:
    with run_directory(directory):
        pass


def listen(directory: Path) -> None:
    Server(NodeState(), directory, "", 0).open()


uses: list[Callable[[Path], object]] = [
    use,
    listen,
    lambda directory: record.add(directory, left),
    record.read,
    lambda directory: fetch(directory / "status.sock"),
]


@pytest.mark.parametrize("using", uses)
def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path, using: Callable[[Path], object]) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    for mode in (0o777, 0o1777, 0o775):
        directory.chmod(mode)
        with pytest.raises((HostError, BadInput), match=f"{directory}.*written to by others"):
            using(directory)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("using", uses)
def test_anothers_directory_is_refused(tmp_path: Path, using: Callable[[Path], object]) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    os.chown(directory, nobody, nobody)
    with pytest.raises((HostError, BadInput), match=f"{directory}.*belongs to user {nobody}"):
        using(directory)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("using", uses)
def test_a_link_to_a_directory_is_refused(tmp_path: Path, using: Callable[[Path], object]) -> None:
    (tmp_path / "real").mkdir()
    directory = tmp_path / "run"
    directory.symlink_to(tmp_path / "real")
    with pytest.raises((HostError, BadInput), match=f"{directory}.*symbolic link"):
        using(directory)
    assert list((tmp_path / "real").iterdir()) == []


@pytest.mark.parametrize("name", ["pid", "footprint.json", "footprint.new", "status.sock"])
@pytest.mark.parametrize("kind", [os.symlink, os.link])
def test_no_file_of_ours_is_reached_by_a_link(tmp_path: Path, name: str, kind: Callable[[Path, Path], None]) -> None:
    """Also in a directory that is ours now: somebody may have had it before."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    directory = tmp_path / "run"
    directory.mkdir()
    kind(victim, directory / name)
    for using in (use, listen, lambda path: record.add(path, left)):
        try:
            using(directory)
        except (HostError, BadInput) as error:
            assert str(directory) in str(error) and "link" in str(error)
    assert victim.read_text() == "precious"
    assert victim.stat().st_mode & 0o777 == 0o644


def test_a_pipe_in_place_of_a_file_holds_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    os.mkfifo(tmp_path / record.file_name)
    tmp_path.chmod(0o755)
    with pytest.raises(HostError, match="pid is no plain file"):
        use(tmp_path)
    with pytest.raises(BadInput, match="no plain file"):
        record.read(tmp_path)


def test_our_directory_is_made_and_used_again(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "run"
    mask = os.umask(0o077)
    try:
        use(directory)
    finally:
        os.umask(mask)
    assert [path.stat().st_mode & 0o777 for path in (directory, directory.parent)] == [0o755, 0o755]
    use(directory)
    record.add(directory, left)
    record.add(directory, left)
    assert record.read(directory) == left


def test_a_full_disk_is_told_by_name(tmp_path: Path) -> None:
    """/dev/full answers every write as a full disk does."""

    def full(descriptor: int, _: bytes) -> int:
        with open("/dev/full", "wb", buffering=0) as disk:
            return disk.write(b"x")

    with pytest.MonkeyPatch.context() as patched, pytest.raises(HostError) as refused:
        patched.setattr(os, "write", full)
        use(tmp_path / "run")
    assert str(refused.value) == f"cannot use --run-dir {tmp_path / 'run'}: No space left on device"
