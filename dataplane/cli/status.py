"""`dataplane status`: asks the running daemon over its unix socket and shows the answer to a person or as JSON."""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

from dataplane.cli.run_dir import add_run_dir
from dataplane.errors import DataplaneError, HostError
from dataplane.observe.state import status_socket
from dataplane.runtime.place import here
from dataplane.runtime.private_files import NotOurs, opened_directory

answer_limit_s = 5.0
not_ready = 3  # 1 is ours for errors, 2 argparse's for wrong usage


def add_parser(subparsers: Any) -> None:
    """Set up the parser of `dataplane status`."""
    parser = subparsers.add_parser(
        "status",
        help="what the node's daemon knows and does",
        epilog="exit code: 0 the node is ready, 3 it is not ready, 1 no daemon answers, 2 wrong usage",
    )
    parser.add_argument("--json", action="store_true", help="print the whole status document")
    add_run_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Print the status; returns 0 if the node is ready, `not_ready` if not. Raises `HostError` when no daemon answers."""
    document = fetch(args.run_dir / status_socket)
    netns, ours = document.get("netns"), here().netns
    if netns and ours and netns != ours:
        text = f"this daemon runs in another network namespace (net:[{netns}]) than this command (net:[{ours}])"
        print(f"note: {text}", file=sys.stderr)
    if args.json:
        json.dump(document, sys.stdout, indent=2)
        print()
    else:
        # rich costs start-up time that --json need not pay.
        from dataplane.cli.status_view import show

        show(document, time.time())
    return 0 if document["ready"] else not_ready


def fetch(path: Path) -> dict[str, Any]:
    """Return the status document of the daemon that listens on `path`; raises `HostError`."""
    connection = _UnixConnection(path)
    try:
        # Whoever makes the directory first could otherwise tell an administrator what he likes.
        with opened_directory(path.parent, 0):
            pass
        connection.request("GET", "/status")
        response = connection.getresponse()
        body = response.read()
    except FileNotFoundError as error:
        raise HostError(f"no daemon is running here: {path} does not exist (--run-dir says where to look)") from error
    except ConnectionRefusedError as error:
        raise HostError(f"no daemon is running here: nobody listens on {path} any more") from error
    except NotOurs as error:
        raise HostError(f"cannot ask the daemon: {error.filename} {error.strerror}") from error
    except PermissionError as error:
        raise HostError(f"not allowed to open {path}; only the daemon's own user may") from error
    except (OSError, http.client.HTTPException) as error:
        raise HostError(f"the daemon did not answer on {path}: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise DataplaneError(f"the daemon answered {response.status} {response.reason} on {path}")
    document: dict[str, Any] = json.loads(body)
    return document


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=answer_limit_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(answer_limit_s)
        self.sock.connect(str(self._path))
