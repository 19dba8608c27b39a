"""`dataplane status`: what it prints, of a real listener and of none."""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
from pathlib import Path

import pytest
from aiohttp import ClientSession

from dataplane.cli import status as status_command
from dataplane.cli import status_view
from dataplane.errors import HostError
from tests.observe.node import now_s, read, running, serve


def test_status_command_prints_what_the_daemon_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, _, _ = running()

    async def check(_: ClientSession) -> None:
        for as_json in (True, False):
            args = argparse.Namespace(run_dir=tmp_path, json=as_json)
            assert await asyncio.to_thread(status_command.run, args) == 0

    serve(state, tmp_path, check)
    text = capsys.readouterr().out
    assert json.loads(text[: text.index("\n}") + 2])["ready"] is True
    for word in (
        "dataplane is ready",
        "10.244.2.0/24",
        "192.0.2.2",
        "02:00:00:ab:00:02",
        "no node holds the destination",
    ):
        assert word in text, word
    assert "receive_vni" not in text[text.index("\n}") :]


def test_refused_leases_by_the_thousand_do_not_fill_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    state, _, _ = running()
    state.refused = {f"bad{number:04}": "no subnet" for number in range(5000)}
    status_view.show(read(state), now_s)
    text = capsys.readouterr().out
    assert text.count("no subnet") == 20
    assert "4980 more" in text


def test_status_without_a_daemon_says_so(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no daemon is running"):
        status_command.run(argparse.Namespace(run_dir=tmp_path, json=True))
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "status.sock"))
    with pytest.raises(HostError, match="no daemon is running"):
        status_command.run(argparse.Namespace(run_dir=tmp_path, json=True))
