"""A second daemon for the same device, overlay or subnet.env is refused, by the first one's process id."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataplane.errors import HostError
from dataplane.footprint.alone import alone, others
from dataplane.footprint.locks import subnet_file_lock


def test_a_device_or_overlay_has_one_daemon() -> None:
    mine = f"test-{os.getpid()}"
    with alone((mine, f"{mine}-other")):
        for name in (mine, f"{mine}-other"):
            with (
                pytest.raises(HostError, match=rf"{name} is in use by another daemon \(pid {os.getpid()}\)"),
                alone((name,)),
            ):
                pass
        with alone((f"{mine}-third",)):
            pass
    with alone((mine,)):
        pass


def test_what_others_have_is_told() -> None:
    mine = f"test-{os.getpid()}"
    with alone((mine, f"{mine}-10.3.0.0/16")):
        assert others((mine,))[f"{mine}-10.3.0.0/16"] == os.getpid()
        assert mine not in others((mine,))
    assert not {mine, f"{mine}-10.3.0.0/16"} & others(()).keys()


def test_another_users_name_keeps_nobody_out() -> None:
    name = f"test-{os.getpid()}"
    hold = (
        "import os, socket, sys; os.setuid(65534); held = socket.socket(socket.AF_UNIX); "
        f"held.bind('\\0dataplane {name}'); held.listen(); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert name not in others(())
        with alone((name,)):
            pass
        other.communicate("")


def test_a_subnet_file_has_one_daemon(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    refused = pytest.raises(HostError, match=rf"{path} is in use by another daemon \(pid {os.getpid()}\)")
    with subnet_file_lock(path), subnet_file_lock(tmp_path / "other.env"), refused, subnet_file_lock(path):
        pass
    with subnet_file_lock(path):
        pass
