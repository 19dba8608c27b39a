"""The rules in nftables: tables of our own, one for each family, replaced whole in one transaction.

What must stay true: there is no moment without the rules while they are put in again, and nobody else's table is
touched. What counts as unchanged is what nft itself listed right after we put the rules in, because the wording
differs between its versions. Source: flannel pkg/trafficmngr/nftables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from dataplane.errors import HostError, HostFault
from dataplane.host.command import ask, call, find
from dataplane.host.firewall.rules import Wanted, chains, nft_more, nft_table, nft_table_name

tool = "nft"
marks = (b"flannel-ipv",)
"""What a notice of the kernel holds if it may concern these rules: the table's name."""

_verdicts = frozenset(("return", "accept", "masquerade", "drop"))
_counted = re.compile(r"counter packets (\d+) bytes \d+ drop")


def available() -> bool:
    """Say whether the tool is installed."""
    return find(tool) is not None


class Nftables:
    """Our rules, by nft."""

    name = "nftables"

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._listed: list[str] = []

    async def apply(self) -> None:
        """Put the rules in, whatever was in our tables before.

        Raises:
            HostError: nft is missing or refused.
        """
        if not available():
            raise HostFault("nft is not installed: install the package nftables (1.0.1 or newer), or iptables")
        text = "".join(
            f"{_emptied(overlay.version)}{nft_table(self._wanted, overlay)}" for overlay in self._wanted.overlays
        )
        await call(tool, "-f", "-", given=text)
        listed = await self._list()
        pairs = [(chain, overlay) for overlay in self._wanted.overlays for chain in chains]
        wanted = [(self._wanted.rules(*pair), nft_more(*pair)) for pair in pairs]
        expected = sum(len(rules) + len(more) for rules, more in wanted if rules)
        if sum(map(_count, listed)) != expected:
            raise HostError("nft: somebody else changed our tables while they were written")
        self._listed = listed

    async def intact(self) -> bool:
        """Say whether the rules are as `apply` left them.

        Raises:
            HostError: nft cannot be run.
        """
        return bool(self._listed) and await self._list() == self._listed

    async def dropped(self) -> int:
        """Return how many packets our rules dropped since they were put in.

        Raises:
            HostError: nft cannot be run.
        """
        listed = [(await ask(tool, "list", "table", *_words(o.version)))[1] for o in self._wanted.overlays]
        return sum(int(count) for text in listed for count in _counted.findall(text))

    async def _list(self) -> list[str]:
        # One that is missing is listed as "": that is no failure, and why else nft may have failed `apply` will tell.
        return [(await ask(tool, "-s", "list", "table", *_words(o.version)))[1] for o in self._wanted.overlays]


async def remove(versions: Iterable[int]) -> None:
    """Remove our tables of these IP versions; neither they nor nft need be there.

    Raises:
        HostError: nft refused.
    """
    for version in versions if available() else ():
        code, _, _ = await ask(tool, "-s", "list", "table", *_words(version))
        if code == 0:
            await call(tool, "-f", "-", given=_emptied(version))


def _emptied(version: int) -> str:
    # To delete what is not there is an error, to add what is there is none.
    return f"add table {nft_table_name(version)}\ndelete table {nft_table_name(version)}\n"


def _words(version: int) -> list[str]:
    return nft_table_name(version).split()


def _count(listed: str) -> int:
    """Return how many rules a listing has."""
    lines = (line.split() for line in listed.splitlines())
    return sum(1 for words in lines if words and words[0] != "comment" and _verdicts & set(words))
