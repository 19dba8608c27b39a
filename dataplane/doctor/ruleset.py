"""Firewall rules as data, whoever wrote them, and what becomes of a packet in them; pure.

What must stay true: only a rule that surely matches decides. What cannot be judged (a rate, an unknown extension, a
sender that is not known) is kept as a doubt, never taken for a yes or a no.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from dataplane.model import IPNetwork

_deepest = 16  # iptables and nft refuse longer ways


@dataclass(frozen=True, slots=True)
class Test:
    """What a rule asks of a packet.

    Attributes:
        field: "protocol", "dport", "in", "out", "source", "destination", "state", "status", "version" or "mark"; others
            cannot be judged.
        values: of which one must hold: words, (lowest, highest) of ports, prefixes, (mask, value) of marks.
    """

    field: str
    values: tuple[Any, ...] = ()
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: `verdict` is "accept", "drop", "jump", "goto", "return", or "" for one that decides nothing.

    `text` is for people; `remove` is the command that takes it out.
    """

    tests: tuple[Test, ...]
    verdict: str
    target: str = ""
    text: str = ""
    remove: str = ""

    def asks(self, name: str) -> bool:
        """Say whether it has a test of this field."""
        return any(test.field == name for test in self.tests)


@dataclass(slots=True)
class Chain:
    """A chain; `hook` "" where packets come by jumps alone. `scope` is its table, in which targets are looked up.

    `insert` is the command that puts a rule in front, to be followed by the rule.
    """

    scope: str
    name: str
    hook: str = ""
    versions: tuple[int, ...] = (4, 6)
    policy: str = "accept"
    rules: list[Rule] = field(default_factory=list)
    tool: str = "nft"
    insert: str = ""

    @property
    def title(self) -> str:
        """Name it for people."""
        return f"{self.tool} chain {self.scope} {self.name}"


Chains = Mapping[tuple[str, str], Chain]
Packet = Mapping[str, Any]
"""What is known of a packet by the names of `Test.field`; prefixes as a tuple of all that may be."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of a packet.

    Attributes:
        rule: that decides; None: the policy of the chain.
        doubts: rules that would have decided otherwise or the same, if they match.
    """

    verdict: str
    rule: Rule | None
    doubts: tuple[Rule, ...] = ()


def judge(chains: Chains, base: Chain, packet: Packet) -> Judgement:
    """Follow a packet through a base chain."""
    doubts: list[Rule] = []
    rule = _walk(chains, base, packet, doubts, 0)
    return Judgement(base.policy if rule is None else rule.verdict, rule, tuple(doubts))


def _walk(chains: Chains, chain: Chain, packet: Packet, doubts: list[Rule], depth: int) -> Rule | None:
    """Return the rule that surely decides in this chain or below it."""
    certain = True
    for rule in chain.rules if depth < _deepest else ():
        matched = matches(rule, packet)
        if matched is False or not rule.verdict:
            continue
        decides: Rule | None = rule
        if rule.verdict == "return":
            if matched and certain:
                return None
            certain = False
            continue
        if rule.verdict in ("jump", "goto"):
            below = chains.get((chain.scope, rule.target))
            decides = None if below is None else _walk(chains, below, packet, doubts, depth + 1)
        if decides is not None:
            if matched and certain:
                return decides
            doubts.append(decides)
        elif rule.verdict == "goto":
            if matched and certain:
                return None
            certain = False
    return None


def matches(rule: Rule, packet: Packet) -> bool | None:
    """Say whether a rule matches; None: it cannot be told."""
    answers = [_holds(test, packet) for test in rule.tests]
    if False in answers:
        return False
    return None if None in answers else True


def _holds(test: Test, packet: Packet) -> bool | None:
    known = packet.get(test.field)
    if known is None or not test.values:
        return None
    if test.field in ("source", "destination") and all(one.version != known[0].version for one in test.values):
        return False  # it asks for the IP version too
    answer = _any(test, known)
    return answer if answer is None else answer != test.negated


def _any(test: Test, known: Any) -> bool | None:
    if test.field in ("source", "destination"):
        return _within(known, test.values)
    if test.field == "dport":
        return any(low <= known <= high for low, high in test.values)
    if test.field == "mark":
        return any(known & mask == value for mask, value in test.values)
    if test.field in ("in", "out"):
        return any(fnmatchcase(known, pattern) for pattern in test.values)
    return known in test.values


def _within(known: Sequence[IPNetwork], wanted: Sequence[IPNetwork]) -> bool | None:
    """Say whether all of the prefixes lie in one of the others (True), or none has anything in common with any (False)."""
    if all(any(_inside(one, other) for other in wanted) for one in known):
        return True
    return (
        None if any(one.overlaps(other) for one in known for other in wanted if one.version == other.version) else False
    )


def _inside(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.subnet_of(other)  # type: ignore[arg-type]
