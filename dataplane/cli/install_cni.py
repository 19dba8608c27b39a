"""`dataplane install-cni`: puts the CNI plugin, and a network configuration, where container runtimes look for them.

What must stay true: a runtime that looks meanwhile sees the old file or the whole new one, and the configuration comes
last, since it is what makes a runtime start pods.

Source: flannel's manifest (init containers of Documentation/kube-flannel.yml), cmd/install_conf; flannel.md section 3.5.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from dataplane.cli.cni_archive import archive
from dataplane.cli.cni_runtime import remove_runtimes, write_runtime
from dataplane.errors import BadInput, HostError

plugin_name = "flannel"
conf_name = "10-flannel.conflist"


def add_parser(subparsers: Any) -> None:
    """Set up the parser of `dataplane install-cni`."""
    parser = subparsers.add_parser(
        "install-cni",
        help="put the CNI plugin on this host",
        description="Write the CNI plugin of type flannel into a directory, as one file that the host's Python runs, and "
        "with --conf a network configuration as 10-flannel.conflist. Files that are there are replaced at once.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--bin-dir", type=Path, default=Path("/opt/cni/bin"), help="where the runtime looks for plugins"
    )
    parser.add_argument("--conf", type=Path, metavar="SRC", help="network configuration list to install")
    parser.add_argument("--conf-dir", type=Path, default=Path("/etc/cni/net.d"), help="where it goes")
    interpreter = parser.add_mutually_exclusive_group()
    interpreter.add_argument(
        "--python",
        default=os.path.realpath(sys.executable),
        metavar="PATH",
        help="the interpreter as the host sees it, 3.9 or later (default: the one that runs this)",
    )
    interpreter.add_argument(
        "--runtime",
        action="store_true",
        help="carry the running interpreter along, for hosts without Python (the same architecture is enough)",
    )


def run(args: argparse.Namespace) -> int:
    """Install and print what was written; returns 0, or raises `BadInput` or `HostError`."""
    conf = None if args.conf is None else _read_conf(args.conf)
    plugin = args.bin_dir / plugin_name
    content, ran_by, runtime = _plugin(args)
    _replace(plugin, content, 0o755)
    remove_runtimes(args.bin_dir, keep=runtime)
    print(f"installed {plugin}, run by {ran_by}")
    if conf is not None:
        target = args.conf_dir / conf_name
        _replace(target, conf, args.conf.stat().st_mode & 0o777)
        print(f"installed {target}")
    return 0


def _plugin(args: argparse.Namespace) -> tuple[bytes, str, str]:
    """Return the file's content, what runs it, and the name of the carried runtime ("": none), which is then in place."""
    if not args.runtime:
        return archive(args.python), args.python, ""
    try:
        name, launcher = write_runtime(args.bin_dir)
    except OSError as error:
        raise HostError(f"cannot write {error.filename or args.bin_dir}: {error.strerror}") from error
    return launcher, str(args.bin_dir / name), name


def _read_conf(path: Path) -> bytes:
    """Return the content of a network configuration list; raises `BadInput` if it is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    try:
        document = json.loads(content)
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}") from error
    plugins = document.get("plugins") if isinstance(document, dict) else None
    if not isinstance(plugins, list) or not all(isinstance(plugin, dict) for plugin in plugins):
        raise BadInput(f'{path} is no CNI network configuration list: it needs "plugins", a list of objects')
    return content


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Put a file in place, whole and durable; raises `HostError`."""
    # Not ending in .conflist: a runtime would take it for a configuration.
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error
