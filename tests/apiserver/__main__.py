"""Runs the API server until it is killed: `python -m tests.apiserver CONFIG`, a JSON file (see process.Server)."""

from __future__ import annotations

import json
import ssl
import sys
from pathlib import Path

import msgspec
import uvloop
from aiohttp import web

from tests.apiserver.access import Access, Rule
from tests.apiserver.levers import Settings
from tests.apiserver.objects import Objects
from tests.apiserver.server import ApiServer


def main(path: Path) -> None:
    """Serve as the file says."""
    given = json.loads(path.read_text())
    rules = {user: [Rule(*rule) for rule in listed] for user, listed in given["rules"].items()}
    settings = msgspec.convert(given["settings"], Settings)
    objects = Objects(Path(given["journal"]), settings.window)
    objects.advance(settings.advance_to)
    access = Access(given["tokens"], rules)
    access.forbid(settings.forbid_s, settings.forbid_because)
    server = ApiServer(objects, access, settings)
    context = None
    if given["certificate"]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(given["certificate"], given["key"])
    web.run_app(
        server.app(),
        host=given["host"],
        port=given["port"],
        ssl_context=context,
        print=None,
        access_log=None,
        shutdown_timeout=0.1,
        reuse_address=True,
        handler_cancellation=True,  # a watch whose client is gone must not stand on
        loop=uvloop.new_event_loop(),
    )


main(Path(sys.argv[1]))
