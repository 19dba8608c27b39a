"""`dataplane install-cni`: what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataplane.cli import main
from dataplane.cli.cni_archive import archive

conflist = {"name": "cbr0", "cniVersion": "1.0.0", "plugins": [{"type": "flannel"}, {"type": "portmap"}]}


def install(tmp_path: Path, *words: str) -> int:
    return main(["install-cni", f"--bin-dir={tmp_path}/bin", f"--conf-dir={tmp_path}/net.d", *words])


def test_the_plugin_and_the_configuration_are_put_in_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "cni-conf.json"
    source.write_text(json.dumps(conflist))
    source.chmod(0o640)
    assert install(tmp_path, f"--conf={source}") == 0
    installed = tmp_path / "net.d" / "10-flannel.conflist"
    assert installed.read_bytes() == source.read_bytes()
    assert installed.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in installed.parent.iterdir()] == ["10-flannel.conflist"]
    assert [path.name for path in (tmp_path / "bin").iterdir()] == ["flannel"]
    version = {"CNI_COMMAND": "VERSION"}
    said = subprocess.run([tmp_path / "bin" / "flannel"], env=version, input=b"", capture_output=True, check=True)
    assert "1.1.0" in json.loads(said.stdout)["supportedVersions"]
    assert f"installed {installed}" in capsys.readouterr().out


def test_a_running_plugin_is_replaced_by_another_file(tmp_path: Path) -> None:
    assert install(tmp_path) == 0
    plugin = tmp_path / "bin" / "flannel"
    with plugin.open("rb") as old:
        assert install(tmp_path) == 0
        assert os.fstat(old.fileno()).st_ino != plugin.stat().st_ino
        assert old.read() == plugin.read_bytes()  # and the same modules make the same bytes


def test_the_interpreter_may_be_one_of_another_host(tmp_path: Path) -> None:
    assert install(tmp_path, "--python=/usr/local/bin/python3") == 0
    assert (tmp_path / "bin" / "flannel").read_bytes().startswith(b"#!/usr/local/bin/python3 -IS\n")
    assert archive(os.path.realpath(sys.executable)).startswith(f"#!{os.path.realpath(sys.executable)} -IS\n".encode())


@pytest.mark.parametrize("python", ["python3", "", "/opt/my python", "/" + "x" * 260])
def test_interpreters_that_a_first_line_cannot_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], python: str
) -> None:
    assert install(tmp_path, f"--python={python}") == 1
    assert "allowed is an absolute path" in capsys.readouterr().err
    assert not (tmp_path / "bin").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        ("[]", 'needs "plugins"'),
        ('{"type": "flannel"}', 'needs "plugins"'),
        ('{"plugins": {}}', 'needs "plugins"'),
        ('{"plugins": ["flannel"]}', 'needs "plugins"'),
        (None, "No such file or directory"),
    ],
)
def test_a_source_that_no_runtime_would_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, says: str
) -> None:
    source = tmp_path / "cni-conf.json"
    if content is not None:
        source.write_text(content)
    assert install(tmp_path, f"--conf={source}") == 1
    error = capsys.readouterr().err
    assert says in error and str(source) in error
    assert not (tmp_path / "bin").exists() and not (tmp_path / "net.d").exists()


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bin").write_text("a file")
    assert install(tmp_path) == 1
    assert f"cannot write {tmp_path}/bin/flannel" in capsys.readouterr().err
