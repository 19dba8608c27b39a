"""A Python for hosts that have none: what the CNI plugin needs of the running one, and a launcher that starts it.

    BIN_DIR/flannel                         the launcher (dataplane/cni/launcher.c), static
    BIN_DIR/.flannel-runtime-HASH/loader    the C library's dynamic loader, told where the libraries are
                                 libraries/ what ldd names for the interpreter and its modules
                                 bin/python the interpreter
                                 lib/pythonX.Y/  the standard library's modules that the plugin imports, and no others
                                 flannel.pyz     the plugin

What must stay true: a runtime's directory is whole before the launcher that names it is in place; nothing in it is taken
from the host when it runs.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from dataplane.cli.cni_archive import archive
from dataplane.errors import HostError

prefix = ".flannel-runtime-"
_name_size = 64  # launcher.c
# Run with the plugin's archive: prints the files of everything that is then loaded, refused input and all.
_list_modules = """
import runpy, sys, zipimport, json, encodings.utf_8, encodings.ascii, encodings.latin_1
sys.path.insert(0, sys.argv[1])
import dataplane.cni.plugin
for module in list(sys.modules.values()):
    if getattr(module, "__file__", None):
        print(module.__file__)
"""


def write_runtime(bin_dir: Path) -> tuple[str, bytes]:
    """Write a runtime's directory, unless it is there already; returns its name and the launcher that starts it.

    Raises:
        HostError: this installation has no launcher, or the file system refused.
    """
    launcher = importlib.resources.files("dataplane.cni") / "flannel-launcher"
    if not launcher.is_file():
        raise HostError(
            "--runtime: this installation was built without the launcher: it needs a static C library (libc.a)"
        )
    bin_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".flannel-runtime.tmp", dir=bin_dir) as temporary:
        made = Path(temporary) / "runtime"
        _fill(made)
        name = prefix + _digest(made)
        if not (bin_dir / name).exists():
            _make_durable(made)
            made.rename(bin_dir / name)
    return name, launcher.read_bytes() + name.encode().ljust(_name_size, b"\0")


def remove_runtimes(bin_dir: Path, keep: str) -> None:
    """Remove the runtimes that the launcher in place does not name. A plugin started just before may fail once."""
    for path in bin_dir.glob(".flannel-runtime*"):  # and what an installer left that was killed
        if path.name != keep:
            shutil.rmtree(path, ignore_errors=True)


def _fill(directory: Path) -> None:
    python = Path(os.path.realpath(sys.executable))
    for part in ("bin", "libraries"):
        (directory / part).mkdir(parents=True)
    shutil.copy(python, directory / "bin" / "python")
    plugin = directory / "flannel.pyz"
    # The first line is not used here: the launcher names the interpreter.
    plugin.write_bytes(archive(str(python)))
    library = Path(sysconfig.get_path("stdlib"))
    target = directory / "lib" / library.name
    binaries = [python]
    for line in _output(str(python), "-IS", "-c", _list_modules, str(plugin)).splitlines():
        source = Path(line)
        if source.is_relative_to(library):
            copy = target / source.relative_to(library)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
            if source.suffix == ".so":
                binaries.append(source)
    # Compiled, for the plugin runs where it may not write; not by time, which copying does not keep.
    _output(str(python), "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", directory, target)
    for binary in binaries:
        _copy_libraries(binary, directory)


def _copy_libraries(binary: Path, directory: Path) -> None:
    for line in _output("ldd", str(binary)).splitlines():
        name, arrow, path = (line.strip().rpartition(" (0x")[0] or line.strip()).partition(" => ")
        if arrow and Path(path).is_file():
            shutil.copy(path, directory / "libraries" / name)
        elif not arrow and Path(name).is_file():
            shutil.copy(name, directory / "loader")


def _make_durable(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _output(*words: str | Path) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise HostError(f"--runtime: {error}: {getattr(error, 'stderr', '') or ''}".strip()) from error


def _digest(directory: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(directory)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]
