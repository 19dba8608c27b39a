"""`dataplane run`: the node's daemon. Reads flags and environment, sets up the log, hands over to the daemon."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from dataplane.cli import flags, settings


def add_parser(subparsers: Any) -> None:
    """Set up the parser of `dataplane run`."""
    parser = subparsers.add_parser(
        "run",
        help="the node's daemon",
        usage="dataplane run [--FLAG=VALUE ...]",
        description="The node's daemon. Each flag also as environment variable FLANNELD_NAME, with _ for -.",
        allow_abbrev=False,
    )
    flags.add_flags(parser)
    parser.set_defaults(parser=parser)


def prepare(words: Sequence[str]) -> list[str]:
    """Rewrite Go's flag forms for argparse."""
    return flags.normalise(words)


def run(args: argparse.Namespace) -> int:
    """Run the daemon until it is told to stop; returns 0, or raises `DataplaneError`."""
    if getattr(args, "version", False):
        from importlib.metadata import version

        print(version("flannel-dataplane"), file=sys.stderr)
        return 0
    options = settings.options(args.parser, args, os.environ)
    set_up_log(options.log_json, options.verbosity)
    from dataplane.daemon.run import run as run_daemon

    code = run_daemon(options, args.begun)
    # Nobody forwards any more. To take the interpreter down in order would be a part of the gap until the next daemon does.
    logging.shutdown()
    os._exit(code)


def set_up_log(as_json: bool, verbosity: int) -> None:
    """Write log messages to stderr, as text or as one JSON object a line; above level 0 also debug messages."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("dataplane").setLevel(logging.DEBUG if verbosity > 0 else logging.INFO)
    logging.getLogger("httpx2").setLevel(logging.INFO if verbosity > 0 else logging.WARNING)  # a line for each request


class TextFormatter(logging.Formatter):
    """`2026-01-02T15:04:05.678Z WARNING control.apply: message`."""

    converter = staticmethod(time.gmtime)
    default_msec_format = "%s.%03dZ"
    default_time_format = "%Y-%m-%dT%H:%M:%S"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")


class JsonFormatter(TextFormatter):
    """The same facts as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON text."""
        entry = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)
