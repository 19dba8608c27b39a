"""The carried Python: the plugin runs where there is nothing but /proc and the CNI directory, no C library either."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.lab.commands import CommandFailed, run

# Static, as plugins on such hosts are. It says what it was given.
delegate = (
    "#include <unistd.h>\nint main(void) { char b[4096]; long n; while ((n = read(0, b, 4096)) > 0) write(1, b, n); }"
)
subnet_env = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n"
conf = {
    "cniVersion": "1.0.0",
    "name": "net",
    "type": "flannel",
    "subnetFile": "/subnet.env",
    "dataDir": "/state",
    "delegate": {"type": "echo"},
}


@pytest.fixture(scope="module")
def bare() -> Iterator[Path]:
    """The root of a host that has /proc, /opt/cni/bin and subnet.env."""
    with tempfile.TemporaryDirectory(dir="/run") as name:
        root = Path(name)
        bin_dir = root / "opt" / "cni" / "bin"
        (root / "proc").mkdir()
        run(None, sys.executable, "-m", "dataplane", "install-cni", "--runtime", f"--bin-dir={bin_dir}", timeout=200)
        run(None, "gcc", "-static", "-w", "-x", "c", "-o", str(bin_dir / "echo"), "-", given=delegate)
        (root / "subnet.env").write_text(subnet_env)
        run(None, "mount", "-t", "proc", "proc", str(root / "proc"))
        try:
            yield root
        finally:
            run(None, "umount", str(root / "proc"))


def plugin(root: Path, command: str, given: bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    variables = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }
    return subprocess.run(
        ["/usr/sbin/chroot", root, "/opt/cni/bin/flannel"],
        input=given,
        env=variables | environment,
        capture_output=True,
        check=False,
    )


def test_add_and_del_on_a_host_without_python_and_libc(bare: Path) -> None:
    assert {path.name for path in bare.iterdir()} == {"opt", "proc", "subnet.env"}
    # No locale of the host's may matter: the codecs for it are not there.
    added = plugin(bare, "ADD", json.dumps(conf).encode(), LANG="de_DE.ISO-8859-15", LC_ALL="de_DE.ISO-8859-15")
    assert (added.returncode, added.stderr) == (0, b"")
    assert json.loads(added.stdout)["ipam"]["ranges"] == [[{"subnet": "10.1.17.0/24"}]]
    assert (bare / "state" / "c1").exists()
    deleted = plugin(bare, "DEL", json.dumps(conf).encode())
    assert (deleted.returncode, deleted.stderr) == (0, b"")
    assert not list((bare / "state").iterdir())


def test_refused_input_is_answered_there_too(bare: Path) -> None:
    refused = plugin(bare, "ADD", b'{"name": ')
    assert refused.stderr == b"" and refused.returncode == 1
    assert json.loads(refused.stdout)["code"] == 6


def test_a_runtime_that_is_gone_is_an_error_that_says_what_to_do(bare: Path) -> None:
    (runtime,) = (bare / "opt" / "cni" / "bin").glob(".flannel-runtime-*")
    aside = runtime.rename(runtime.with_name("aside"))
    try:
        failed = plugin(bare, "VERSION", b"")
    finally:
        aside.rename(runtime)
    assert failed.returncode == 1
    error = json.loads(failed.stdout)
    assert error["code"] == 106 and "No such file or directory" in error["msg"] and "--runtime" in error["details"]


def test_installing_anew_leaves_one_runtime(bare: Path) -> None:
    bin_dir = bare / "opt" / "cni" / "bin"
    (before,) = bin_dir.glob(".flannel-runtime*")
    old = before.rename(bin_dir / ".flannel-runtime-0000000000000000")
    command = (sys.executable, "-m", "dataplane", "install-cni", f"--bin-dir={bin_dir}")
    run(None, *command, "--runtime", timeout=200)
    assert not old.exists()
    assert list(bin_dir.glob(".flannel-runtime*")) == [before]  # the same content has the same name
    assert plugin(bare, "VERSION", b"").returncode == 0
    with pytest.raises(CommandFailed, match="not allowed with"):
        run(None, *command, "--runtime", "--python=/usr/bin/python3")
    run(None, *command)
    assert not list(bin_dir.glob(".flannel-runtime*"))  # nothing needs it any more
