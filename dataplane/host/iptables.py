"""The rules in iptables: chains of our own in nat, filter and mangle, and one jump to each.

What must stay true: a chain's rules are replaced in one transaction of iptables-restore, so there is no moment without
them; a jump that is there stays where it is; chains and rules of others are not touched. Ours are our chains, the
jumps to them, and rules with flannel's comments in the base chains, which early flannel put there directly. Works the
same over nf_tables and over the legacy kernel interface. Source: flannel pkg/trafficmngr/iptables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from dataplane.errors import HostError, HostFault
from dataplane.host.command import ask, call, find
from dataplane.host.rules import Chain, Overlay, Wanted, chains, first_chains, iptables_jump, iptables_rule

marks = (b"FLANNEL-", b"DATAPLANE-", b"POSTROUTING\0", b"FORWARD\0", b"INPUT\0")
"""What a notice of the kernel holds if it may concern these rules (a deleted rule is reported by its chain alone)."""

Listing = list[tuple[list[str], list[str]]]

_random_since = (1, 6, 2)  # flannel pkg/trafficmngr/iptables: --random-fully, and --wait of iptables-restore


def available(versions: Iterable[int]) -> bool:
    """Say whether the tools for these IP versions are installed."""
    return all(find(tool_name(version)) and find(f"{tool_name(version)}-restore") for version in versions)


class Iptables:
    """Our rules, by iptables and ip6tables."""

    name = "iptables"

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._listed: Listing = []

    async def apply(self) -> None:
        """Put the rules in, whatever was in our chains before; take out a chain that is not wanted.

        Raises:
            HostError: a tool is missing or refused.
        """
        if not available(overlay.version for overlay in self._wanted.overlays):
            raise HostFault(
                "iptables is not installed: install the package iptables, "
                'or set "EnableNFTables": true in the network configuration'
            )
        for overlay in self._wanted.overlays:
            for chain in chains:
                await self._put(chain, overlay)
        listed = await self._list()
        for (chain, overlay), (jumps, own) in zip(self._places(), listed, strict=True):
            # `own` begins with the chain itself.
            if len(jumps) != 1 or len(own) != 1 + len(self._wanted.rules(chain, overlay)):
                raise HostError(f"{chain.name}: somebody else changed this chain while it was written")
        self._listed = listed

    async def intact(self) -> bool:
        """Say whether the rules are as `apply` left them.

        Raises:
            HostError: a tool cannot be run.
        """
        return bool(self._listed) and await self._list() == self._listed

    async def dropped(self) -> int:
        """Return how many packets our rules dropped since they were put in.

        Raises:
            HostError: a tool cannot be run.
        """
        count = 0
        for chain, overlay in self._places():
            if chain in first_chains:
                words = ("-w", "-t", chain.table, "-L", chain.name, "-v", "-x", "-n")
                _, out, _ = await ask(tool_name(overlay.version), *words)
                rows = (line.split() for line in out.splitlines())
                count += sum(int(row[0]) for row in rows if len(row) > 2 and row[2] == "DROP")
        return count

    def _places(self) -> list[tuple[Chain, Overlay]]:
        wanted = self._wanted
        return [(chain, overlay) for overlay in wanted.overlays for chain in chains if wanted.rules(chain, overlay)]

    async def _list(self) -> Listing:
        return [await _look(chain, overlay.version) for chain, overlay in self._places()]

    async def _put(self, chain: Chain, overlay: Overlay) -> None:
        rules = self._wanted.rules(chain, overlay)
        if not rules:
            await _remove_chain(chain, overlay.version)
            return
        modern = await _version(overlay.version) >= _random_since
        jumps, _ = await _look(chain, overlay.version)
        jump = iptables_jump(chain)
        old = list(jumps)
        if jump in old:
            old.remove(jump)
        lines = [f":{chain.name} - [0:0]", *map(_deletion, old)]
        if jump not in jumps:
            lines.append(jump.replace("-A", "-I", 1) if chain in first_chains else jump)
        lines += [iptables_rule(chain, rule, self._wanted.random_fully and modern) for rule in rules]
        await restore(chain.table, overlay.version, lines)


async def remove(versions: Iterable[int]) -> None:
    """Remove our chains of these IP versions and what leads to them; neither they nor the tools need be there.

    Raises:
        HostError: a tool refused.
    """
    for version in versions:
        for chain in chains if available((version,)) else ():
            await _remove_chain(chain, version)


async def _remove_chain(chain: Chain, version: int) -> None:
    jumps, own = await _look(chain, version)
    if jumps or own:
        emptied = [f":{chain.name} - [0:0]", *map(_deletion, jumps), f"-X {chain.name}"]
        await restore(chain.table, version, emptied)


async def _look(chain: Chain, version: int) -> tuple[list[str], list[str]]:
    """Return our rules in the base chain, and our chain; nothing where there is none."""
    # By chain, because a node's kube-proxy may have a hundred thousand rules beside ours.
    listings = []
    for name in (chain.base, chain.name):
        _, out, _ = await ask(tool_name(version), "-w", "-t", chain.table, "-S", name)
        listings.append(out.splitlines())
    base, own = listings
    ours = re.compile(rf'--comment "{chain.comment}"( |$)|-[jg] {chain.name}( |$)')
    return [line for line in base if ours.search(line)], own


async def restore(table: str, version: int, lines: Iterable[str]) -> None:
    """Do what these lines say to a table, in one transaction.

    Raises:
        HostError: a tool is missing or refused.
    """
    text = "\n".join((f"*{table}", *lines, "COMMIT", ""))
    wait = await _version(version) >= _random_since
    await call(f"{tool_name(version)}-restore", "--noflush", *(["--wait"] if wait else []), given=text)


async def _version(version: int) -> tuple[int, ...]:
    said = await call(tool_name(version), "--version")
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else (0,)


def _deletion(rule: str) -> str:
    return rule.replace("-A", "-D", 1)


def tool_name(version: int) -> str:
    """Return the tool for an IP version."""
    return "iptables" if version == 4 else "ip6tables"
