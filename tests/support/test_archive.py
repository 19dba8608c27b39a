"""The archive: whole, for its owner alone, in place of nothing; what was not had is told."""

from __future__ import annotations

import stat
import tarfile
from pathlib import Path

import pytest

from dataplane.errors import HostError
from dataplane.support import pieces as made
from dataplane.support.archive import contents, write
from dataplane.support.pieces import Piece, pieces

some = (Piece("status.txt", "ready\n"), Piece("firewall/nft", "", "nft is not installed"))


def test_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "node1.tar.gz"
    size = write(path, some, 1_000_000.0)
    assert path.stat().st_size == size and stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["node1/contents", "node1/status.txt"]
        told = archive.extractfile("node1/contents")
        assert told is not None and told.read().decode() == "\n".join(contents(some)) + "\n"
    assert list(contents(some)) == [
        "         6  status.txt",
        "         -  firewall/nft (not had: nft is not installed)",
    ]
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "node1.tar.gz"
    path.write_text("mine")
    with pytest.raises(HostError, match="exists"):
        write(path, some, 0.0)
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(HostError, match="No such file"):
        write(tmp_path / "nowhere" / "node1.tar.gz", some, 0.0)


def test_what_cannot_be_had_keeps_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = {
        "gone": ("no-such-command",),
        "slow": ("sleep", "60"),
        "fails": ("sh", "-c", "echo half; echo why >&2; exit 3"),
        "silent": ("sh", "-c", "echo why >&2; exit 4"),
        "large": ("sh", "-c", "echo first; head -c 5000000 /dev/zero | tr '\\0' x; echo last"),
        "well": ("echo", "password=hunter22"),
    }
    monkeypatch.setattr(made, "_commands", commands)
    monkeypatch.setattr(made, "limit_s", 3.0)
    found = {piece.name: piece for piece in pieces(tmp_path, 0, tmp_path / "subnet.env", tmp_path / "net-conf.json")}
    assert found["gone"].why_not == "no-such-command is not installed"
    assert "no end within" in found["slow"].why_not
    assert found["fails"].text == "half\n(it ended with 3: why)\n"
    assert found["silent"].why_not == "sh ended with 4: why"
    assert found["large"].text.startswith("(the beginning is left out)\n") and found["large"].text.endswith("last\n")
    assert found["well"].text == "password=[taken out]\n"
    assert found["configuration/subnet.env"].why_not == "No such file or directory"
    assert "no daemon is running" in found["status.txt"].why_not
    assert "Python 3" in found["versions"].text and "ip_forward" in found["host/settings"].text
    assert "daemon/command" not in found
