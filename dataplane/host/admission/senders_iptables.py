"""The set of leased senders in iptables, for hosts without nft: chains of our own in mangle, a tree by prefix.

A rule a sender would be looked at one after another for every packet, and ipset is not a given. In the tree a packet
meets at most `_most` rules of each chain, and a chain for each further hexadecimal digit in which senders differ. What
must stay true: a change is one transaction and writes only the chains that it concerns; what is not for our port and
VNI passes; the chain that counts drops is not written by changes.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from dataplane.errors import HostError
from dataplane.host.command import ask
from dataplane.host.firewall.iptables import available, other_tools, restore, tool_name
from dataplane.model import VxlanLink

_table = "mangle"  # before whatever accepts in filter
_most = 16
_digit = 4  # bits
_vnis = 1 << 24
# Where VNI and reserved byte are: by the IPv4 header's length; behind a bare IPv6 header, what has others is judged too.
_vni_at = {4: "0>>22&0x3C@12>>8", 6: "3&0xFF=17&&52>>8"}
_counts = re.compile(r"^\[(\d+):\d+\] ")
Chains = dict[str, tuple[str, ...]]


def marks(device: str) -> tuple[bytes, ...]:
    """What a notice of the kernel holds if it may concern the device's chains; a lost jump is told by INPUT alone."""
    return _name(device).encode(), b"INPUT\0"


class IptablesSenders:
    """The set before one device. Every method raises `HostError`."""

    name = "iptables"

    def __init__(self, link: VxlanLink) -> None:
        self._link = link
        self._version = link.local.version
        self._root = _name(link.name)
        self._jump = f"-A INPUT -p udp -m udp --dport {link.port} -j {self._root}"
        self._chains: Chains = {}
        self._senders: set[str] = set()
        self._listed: list[str] = []
        self._exact = True  # as long as the kernel has u32

    async def apply(self, senders: Collection[str]) -> None:
        """Let in these alone, whatever was there before; counts begin anew."""
        try:
            await self._apply(senders)
        except HostError:
            if not self._exact:
                raise
            self._exact = False
            await self._apply(senders)

    async def change(self, put: Collection[str], remove: Collection[str]) -> None:
        """Let in `put` too, and `remove` no more; all of these are news."""
        await self._write(self._senders.union(put).difference(remove), self._chains, ())

    async def look(self, senders: Collection[str]) -> tuple[bool, int]:
        """Return whether all is as we left it with these senders, and how many packets were dropped since `apply`."""
        listed, dropped = await _look(tool_name(self._version), self._root)
        return listed == self._listed and self._senders == set(senders), dropped

    async def _apply(self, senders: Collection[str]) -> None:
        listed, _ = await _look(tool_name(self._version), self._root)
        before: Chains = dict.fromkeys(_chains_of(listed), ())
        jumps = [line for line in listed if line.startswith("-A INPUT ")]
        first = [f":{_drops(self._root)} - [0:0]", f"-A {_drops(self._root)} -j DROP"]
        before.pop(_drops(self._root), None)
        await self._write(senders, before, [*(_other("-D", jump) for jump in jumps), *first, _other("-I", self._jump)])

    async def _write(self, senders: Collection[str], before: Chains, others: Sequence[str]) -> None:
        """Write what is not as `before` has it, and `others` (in the middle, where chains exist and are used yet)."""
        chains = await asyncio.to_thread(self._wanted, senders)
        await restore(_table, tool_name(self._version), _difference(before, chains, others))
        listed, _ = await _look(tool_name(self._version), self._root)
        if len(listed) != len(chains) + 1 + sum(map(len, chains.values())) + 1 + 1:  # drops, its rule, the jump
            raise HostError(
                f"{tool_name(self._version)}: somebody else changed chain {self._root} while it was written"
            )
        self._chains, self._senders, self._listed = chains, set(senders), listed

    def _wanted(self, senders: Collection[str]) -> Chains:
        bits = self._link.local.max_prefixlen
        chains = dict(_tree(self._root, self._root, sorted(int(ip_address(text)) for text in senders), bits))
        if self._exact:
            others = ",".join(
                f"{low:#x}:{high:#x}"
                for low, high in ((0, self._link.vni - 1), (self._link.vni + 1, _vnis - 1))
                if low <= high
            )
            rule = f'-A {self._root} -m u32 --u32 "{_vni_at[self._version]}={others}" -j RETURN'
            chains[self._root] = (rule, *chains[self._root])
        return chains


async def remove(device: str, versions: Iterable[int], *, others_alone: bool = False) -> bool:
    """Remove the device's chains, if iptables and they are there; returns whether they were. Raises `HostError`.

    Args:
        others_alone: only those that the form of iptables in use does not see.
    """
    removed = False
    for version in versions:
        if not available((version,)):
            continue
        ours = () if others_alone else (tool_name(version),)
        for tool in (*ours, *await other_tools(version)):
            removed = await _remove_by(tool, _name(device)) or removed
    return removed


async def _remove_by(tool: str, root: str) -> bool:
    if (await ask(tool, "-w", "-t", _table, "-S", root))[0] != 0:
        return False
    listed, _ = await _look(tool, root)
    chains = _chains_of(listed)
    jumps = [_other("-D", line) for line in listed if line.startswith("-A INPUT ")]
    await restore(_table, tool, [*jumps, *(f"-F {chain}" for chain in chains), *(f"-X {chain}" for chain in chains)])
    return True


def _tree(root: str, chain: str, senders: Sequence[int], bits: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield chain and rules of a tree, sorted senders in; a packet that no rule takes is dropped."""
    address = IPv4Address if bits == 32 else IPv6Address
    rules = []
    if len(senders) <= _most:
        rules = [f"-A {chain} -s {address(sender)}/{bits} -j RETURN" for sender in senders]
    else:
        # The digit in which they begin to differ.
        shift = ((senders[0] ^ senders[-1]).bit_length() - 1) // _digit * _digit
        parts: dict[int, list[int]] = {}
        for sender in senders:
            parts.setdefault(sender >> shift, []).append(sender)
        for high, part in parts.items():
            prefix = f"{address(high << shift)}/{bits - shift}"
            child = _child(root, prefix)
            rules.append(f"-A {chain} -s {prefix} -g {child}")
            yield from _tree(root, child, part, bits)
    yield chain, (*rules, f"-A {chain} -g {_drops(root)}")


def _difference(before: Chains, after: Chains, others: Sequence[str]) -> list[str]:
    """Return the lines that make `after` of `before`."""
    written = [chain for chain, rules in after.items() if before.get(chain) != rules]
    gone = [chain for chain in before if chain not in after]
    return [
        *(f":{chain} - [0:0]" for chain in written),
        *others,
        *(rule for chain in written for rule in after[chain]),
        *(f"-F {chain}" for chain in gone),
        *(f"-X {chain}" for chain in gone),
    ]


async def _look(tool: str, root: str) -> tuple[list[str], int]:
    """Return chains and rules of this root and the jumps to it, without counts, and what was dropped."""
    _, out, _ = await ask(f"{tool}-save", "-c", "-t", _table)
    return await asyncio.to_thread(_ours, out, root)


def _ours(saved: str, root: str) -> tuple[list[str], int]:
    lines, dropped = [], 0
    ours = re.compile(rf"^:{re.escape(root)}[ +]|^-A {re.escape(root)}[ +]|^-A INPUT .*-[jg] {re.escape(root)}( |$)")
    for line in saved.splitlines():
        rule = _counts.sub("", line)
        if ours.search(rule):
            lines.append(rule if rule.startswith("-A") else rule.partition(" ")[0])
            count = _counts.match(line)
            if count and rule == f"-A {_drops(root)} -j DROP":
                dropped += int(count[1])
    return lines, dropped


def _chains_of(listed: Iterable[str]) -> list[str]:
    return [line[1:] for line in listed if line.startswith(":")]


def _other(verb: str, rule: str) -> str:
    return rule.replace("-A", verb, 1)


def _name(device: str) -> str:
    return f"DP-{device}"


def _drops(root: str) -> str:
    return f"{root}+drop"


def _child(root: str, prefix: str) -> str:
    """A chain's name (28 letters at most): by the prefix, so that changes elsewhere leave it."""
    return f"{root}+{base64.b32encode(hashlib.blake2b(prefix.encode(), digest_size=5).digest()).decode()}"
