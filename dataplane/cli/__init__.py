"""The command line: a table of subcommands, each a module that is imported only when it is chosen.

A subcommand module has `add_parser(subparsers)`, which sets up its parser, and `run(args) -> int`, which
returns the exit code; it may have `prepare(words) -> words` to rewrite its own words first. `run` alone begins before
anything else is loaded (`begin`), and finds what became of it as `args.begun`. What must stay true: errors that the project raises on purpose end as one line on stderr and exit code 1, wrong usage ends
with exit code 2, and a module that is missing or broken does not keep the others from working.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from dataplane.errors import DataplaneError

commands = {
    "run": "the node's daemon",
    "status": "what the node's daemon knows and does",
    "doctor": "what keeps this node from carrying packets, and what mends it",
    "ping": "whether other nodes answer through the overlay",
    "top": "who sends and receives how much, and what is dropped",
    "support": "collect what an issue report needs into one archive",
    "cleanup": "remove what an ended daemon left on this host",
    "install-cni": "put the CNI plugin on this host",
    "demo": "a virtual cluster in namespaces of its own",
    "bench": "throughput, packet rate, latency and CPU cost beside the kernel's",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code: 0 done, 1 failed, 2 wrong usage (argparse exits with it)."""
    words = list(sys.argv[1:] if words is None else words)
    chosen = words[0] if words else ""
    begun = None
    if chosen == "run":
        from dataplane.cli.begin import begin

        begun = begin(words[1:])
    import argparse

    parser = argparse.ArgumentParser(prog="dataplane", description="A flannel node daemon with a userspace data plane.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    module = None
    for name, text in commands.items():
        if name != chosen:
            subparsers.add_parser(name, help=text)
            continue
        try:
            module = import_module(f"dataplane.cli.{name.replace('-', '_')}")
        except ModuleNotFoundError as error:
            print(f"dataplane {name}: not available in this installation: {error}", file=sys.stderr)
            return 1
        module.add_parser(subparsers)
        if hasattr(module, "prepare"):
            words[1:] = module.prepare(words[1:])
    args = parser.parse_args(words)
    args.begun = begun
    if module is None:
        parser.error(f"the command comes first; one of: {', '.join(commands)}")
    try:
        return int(module.run(args))
    except DataplaneError as error:
        print(f"dataplane {chosen}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output (head, a pager) has gone; what it read was whole.
        sys.stderr.close()
        return 1
