"""Removal by a footprint: what is not of here is left and named."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from dataplane.errors import HostError
from dataplane.footprint import record
from dataplane.footprint.removal import remove
from tests.footprint.files import mac, ours, put


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
