"""The set of leased senders in nftables: a table of our own for each device, changed element by element.

What must stay true: a change is one transaction, and what is not for our port and VNI passes. An IPv6 datagram may come
here in pieces, the first too short to show its VNI: it is judged too.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterable

from dataplane.errors import HostError
from dataplane.host.command import ask, call, find
from dataplane.host.firewall.rules import nft_family
from dataplane.model import VxlanLink

tool = "nft"
_elements = re.compile(r"elements = \{([^}]*)\}")
_counter = re.compile(r"counter packets (\d+) bytes \d+")


def mark(device: str) -> bytes:
    """What a notice of the kernel holds if it may concern the device's set."""
    return _name(device).encode()


class NftSenders:
    """The set before one device. Every method raises `HostError`."""

    name = "nftables"

    def __init__(self, link: VxlanLink) -> None:
        self._link = link
        self._table = f"{nft_family(link.local.version)} {_name(link.name)}"
        self._rules = ""

    async def apply(self, senders: Collection[str]) -> None:
        """Let in these alone, whatever was there before; counts begin anew."""
        await call(tool, "-f", "-", given=await asyncio.to_thread(self._text, senders))
        rules, found, _ = await self._look()
        if found != set(senders):
            raise HostError(f"nft: somebody else changed table {self._table} while it was written")
        self._rules = rules

    async def change(self, put: Collection[str], remove: Collection[str]) -> None:
        """Let in `put` too, and `remove` no more; all of these are news."""
        lines = [
            f"{verb} element {self._table} senders {{ {', '.join(addresses)} }}\n"
            for verb, addresses in (("add", put), ("delete", remove))
            if addresses
        ]
        await call(tool, "-f", "-", given="".join(lines))

    async def look(self, senders: Collection[str]) -> tuple[bool, int]:
        """Return whether all is as we left it with these senders, and how many packets were dropped since `apply`."""
        rules, found, dropped = await self._look()
        return rules == self._rules and found == set(senders), dropped

    async def _look(self) -> tuple[str, set[str], int]:
        # A table that is missing is listed as "".
        _, listed, _ = await ask(tool, "list", "table", *self._table.split())
        return await asyncio.to_thread(_taken_apart, listed)

    def _text(self, senders: Collection[str]) -> str:
        family, _, _ = self._table.partition(" ")
        elements = f"elements = {{ {', '.join(senders)} }};" if senders else ""
        ours = f"udp dport {self._link.port}"
        return (
            f"add table {self._table}\ndelete table {self._table}\n"
            f"table {self._table} {{\n"
            f'comment "who may send to {self._link.name}"\n'
            f"set senders {{ type ipv{self._link.local.version}_addr; {elements} }}\n"
            "chain input {\n"
            "type filter hook input priority mangle; policy accept;\n"
            f"{ours} @th,96,24 != {self._link.vni} return\n"
            f"{ours} {family} saddr != @senders counter drop\n"
            "}\n}\n"
        )


async def remove(device: str, versions: Iterable[int]) -> bool:
    """Remove the device's table, if nft and it are there; returns whether it was. Raises `HostError`."""
    removed = False
    for version in versions if find(tool) else ():
        table = f"{nft_family(version)} {_name(device)}"
        code, _, _ = await ask(tool, "-t", "list", "table", *table.split())
        if code == 0:
            await call(tool, "-f", "-", given=f"add table {table}\ndelete table {table}\n")
            removed = True
    return removed


def _name(device: str) -> str:
    return f"dataplane-{device}"


def _taken_apart(listed: str) -> tuple[str, set[str], int]:
    """Return the listing without elements and counts, the elements, and the sum of the counts."""
    found = _elements.search(listed)
    elements = set(found[1].replace(",", " ").split()) if found else set()
    rest = "".join(_counter.sub("counter", _elements.sub("", listed)).split())
    return rest, elements, sum(int(count) for count in _counter.findall(listed))
