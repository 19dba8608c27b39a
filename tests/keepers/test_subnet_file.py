"""subnet.env is put back, whatever somebody did to it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from dataplane.flannel import subnet_env
from dataplane.keepers import subnet_file
from dataplane.observe.state import NodeState
from dataplane.runtime.clock import WallClock

env = subnet_env.SubnetEnv(IPv4Network("10.3.0.0/16"), IPv4Network("10.3.1.0/24"), mtu=1450)


async def keep(path: Path, state: NodeState, until: Callable[[], bool]) -> None:
    work = asyncio.create_task(subnet_file.keep_subnet_file(path, env, state, WallClock()))
    try:
        async with asyncio.timeout(200):
            while not until():  # noqa: ASYNC110 (a file has no event)
                await asyncio.sleep(0.01)
    finally:
        work.cancel()


def change(path: Path) -> None:
    path.write_text(path.read_text().replace("1450", "1500"))


def point_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("victim"))


def put_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "harm",
    [
        Path.unlink,
        change,
        lambda path: path.chmod(0o600),
        lambda path: path.write_text(""),
        point_elsewhere,
        put_a_pipe,
    ],
)
def test_it_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(subnet_file, "look_s", 0.02)
    path = tmp_path / "flannel" / "subnet.env"
    victim = path.with_name("victim")
    state = NodeState()
    subnet_file.write(path, env)
    right = path.read_bytes()
    victim.write_bytes(right)
    harm(path)
    assert not subnet_file.stands(path, env)
    with caplog.at_level(logging.WARNING):
        asyncio.run(keep(path, state, lambda: state.events["repairs"] > 0))
    assert subnet_file.stands(path, env) and path.read_bytes() == right and not path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o644 and victim.read_bytes() == right
    assert state.events["repairs"] == 1 and str(path) in caplog.text
    assert "subnet file" not in state.blockers


def test_what_cannot_be_put_back_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subnet_file, "look_s", 0.02)
    path = tmp_path / "subnet.env"
    path.mkdir()
    state = NodeState()
    asyncio.run(keep(path, state, lambda: "subnet file" in state.blockers))
    assert str(path) in state.blockers["subnet file"]
    path.rmdir()
    asyncio.run(keep(path, state, lambda: "subnet file" not in state.blockers))
    assert subnet_file.stands(path, env)
