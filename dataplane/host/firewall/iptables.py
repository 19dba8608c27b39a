"""The rules in iptables: chains of our own in nat, filter and mangle, and one jump to each.

What must stay true: a chain's rules are replaced in one transaction of iptables-restore, so there is no moment without
them; a jump that is there stays where it is, but that to a chain that must be first comes before whatever accepts; chains and rules of others are not touched. Ours are our chains, the
jumps to them, and rules with flannel's comments in the base chains, which early flannel put there directly. Works the
same over nf_tables and over the legacy kernel interface. Source: flannel pkg/trafficmngr/iptables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dataplane.errors import HostError, HostFault
from dataplane.host.command import ask, call, find
from dataplane.host.firewall.rules import Chain, Overlay, Wanted, chains, first_chains, iptables_jump, iptables_rule

marks = (b"FLANNEL-", b"DATAPLANE-", b"POSTROUTING\0", b"FORWARD\0", b"INPUT\0")
"""What a notice of the kernel holds if it may concern these rules (a deleted rule is reported by its chain alone)."""


class Found(NamedTuple):
    """What is there of a chain: our rules in the base chain, the chain itself, and whether an accept keeps packets from it."""

    jumps: list[str]
    own: list[str]
    late: bool


_random_since = (1, 6, 2)  # flannel pkg/trafficmngr/iptables: --random-fully, and --wait of iptables-restore


def available(versions: Iterable[int]) -> bool:
    """Say whether the tools for these IP versions are installed."""
    return all(find(tool_name(version)) and find(f"{tool_name(version)}-restore") for version in versions)


class Iptables:
    """Our rules, by iptables and ip6tables."""

    name = "iptables"

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._listed: list[Found] = []

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
        for (chain, overlay), found in zip(self._places(), listed, strict=True):
            # `own` begins with the chain itself.
            if found.late or len(found.jumps) != 1 or len(found.own) != 1 + len(self._wanted.rules(chain, overlay)):
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

    async def _list(self) -> list[Found]:
        return [await _look(chain, tool_name(overlay.version)) for chain, overlay in self._places()]

    async def _put(self, chain: Chain, overlay: Overlay) -> None:
        rules = self._wanted.rules(chain, overlay)
        if not rules:
            await _remove_chain(chain, tool_name(overlay.version))
            return
        modern = await _version(tool_name(overlay.version)) >= _random_since
        found = await _look(chain, tool_name(overlay.version))
        jump = iptables_jump(chain)
        old = list(found.jumps)
        stays = jump in old and not found.late
        if stays:
            old.remove(jump)
        lines = [f":{chain.name} - [0:0]", *map(_deletion, old)]
        if not stays:
            lines.append(jump.replace("-A", "-I", 1) if chain in first_chains else jump)
        lines += [iptables_rule(chain, rule, self._wanted.random_fully and modern) for rule in rules]
        await restore(chain.table, tool_name(overlay.version), lines)


async def remove(versions: Iterable[int]) -> None:
    """Remove our chains of these IP versions and what leads to them; neither they nor the tools need be there.

    Raises:
        HostError: a tool refused.
    """
    for version in versions:
        if available((version,)):
            for tool in (tool_name(version), *await other_tools(version)):
                await _remove_chains(tool)


async def remove_others(versions: Iterable[int]) -> None:
    """Remove those that only the other form of iptables sees, of a time when `iptables` meant that one.

    Raises:
        HostError: a tool refused.
    """
    for version in versions:
        for tool in await other_tools(version):
            await _remove_chains(tool)


async def other_tools(version: int) -> list[str]:
    """Return the tool of the form that `iptables` is not (legacy or nf_tables), where it is installed and may find rules.

    Raises:
        HostError: iptables cannot be run.
    """
    tool = tool_name(version)
    legacy = "nf_tables" in await call(tool, "--version")
    other = f"{tool}-{'legacy' if legacy else 'nft'}"
    if not (find(other) and find(f"{other}-restore") and find(f"{other}-save")):
        return []
    # The legacy tool would make its tables by looking for them.
    return [] if legacy and not has_legacy_tables(version) else [other]


def has_legacy_tables(version: int) -> bool:
    """Say whether the legacy kernel interface has tables of this IP version."""
    try:
        return bool(Path(f"/proc/net/{'ip' if version == 4 else 'ip6'}_tables_names").read_text())
    except OSError:
        return False


async def _remove_chains(tool: str) -> None:
    for chain in chains:
        await _remove_chain(chain, tool)


async def _remove_chain(chain: Chain, tool: str) -> None:
    found = await _look(chain, tool)
    if found.jumps or found.own:
        emptied = [f":{chain.name} - [0:0]", *map(_deletion, found.jumps), f"-X {chain.name}"]
        await restore(chain.table, tool, emptied)


async def _look(chain: Chain, tool: str) -> Found:
    """Return what is there; nothing where there is none. What chains of others accept before ours is not looked into."""
    # By chain, because a node's kube-proxy may have a hundred thousand rules beside ours.
    listings = []
    for name in (chain.base, chain.name):
        _, out, _ = await ask(tool, "-w", "-t", chain.table, "-S", name)
        listings.append(out.splitlines())
    base, own = listings
    ours = re.compile(rf'--comment "{chain.comment}"( |$)|-[jg] {chain.name}( |$)')
    jumps = [line for line in base if ours.search(line)]
    before = base[: base.index(jumps[0])] if jumps and chain in first_chains else []
    return Found(jumps, own, any(line.endswith(" -j ACCEPT") for line in before))


async def restore(table: str, tool: str, lines: Iterable[str]) -> None:
    """Do what these lines say to a table, in one transaction.

    Raises:
        HostError: a tool is missing or refused.
    """
    text = "\n".join((f"*{table}", *lines, "COMMIT", ""))
    wait = await _version(tool) >= _random_since
    await call(f"{tool}-restore", "--noflush", *(["--wait"] if wait else []), given=text)


async def _version(tool: str) -> tuple[int, ...]:
    said = await call(tool, "--version")
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else (0,)


def _deletion(rule: str) -> str:
    return rule.replace("-A", "-D", 1)


def tool_name(version: int) -> str:
    """Return the tool for an IP version."""
    return "iptables" if version == 4 else "ip6tables"
