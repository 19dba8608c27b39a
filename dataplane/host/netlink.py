"""The node's links, addresses and routes behind one netlink socket."""

from __future__ import annotations

from dataplane.host.links import Links
from dataplane.host.routes import Routes


class Host(Links, Routes):
    """This network namespace's links, addresses and routes. Every method raises `HostError` when refused."""
