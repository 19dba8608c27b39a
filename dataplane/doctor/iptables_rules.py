"""`iptables-save` as rules; pure.

What must stay true: an option that is not understood becomes a test that cannot be judged.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

from dataplane.doctor.ruleset import Chain, Rule, Test
from dataplane.errors import BadInput

_hooks = {"INPUT": "input", "FORWARD": "forward"}
_tables = frozenset(("filter", "mangle", "raw", "security"))  # nat drops nothing
_verdicts = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "drop", "RETURN": "return"}
_fields = {
    "-s": "source",
    "-d": "destination",
    "-i": "in",
    "-o": "out",
    "-p": "protocol",
    "--dport": "dport",
    "--dports": "dport",
    "--ctstate": "state",
    "--state": "state",
    "--mark": "mark",
}
_silent = frozenset(("--comment", "--reject-with", "--log-prefix", "--log-level"))
_modules = frozenset(("comment", "udp", "tcp", "multiport", "conntrack", "state", "mark"))
_longest_shown = 160


def read(text: str, tool: str, version: int) -> dict[tuple[str, str], Chain]:
    """Return the chains of the tables that drop packets, by table and name; raises `BadInput`."""
    chains: dict[tuple[str, str], Chain] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif table not in _tables:
            continue
        elif line.startswith(":"):
            name, policy = line[1:].split()[:2]
            chains[table, name] = Chain(
                table,
                name,
                _hooks.get(name, ""),
                (version,),
                "drop" if policy == "DROP" else "accept",
                tool=tool,
                insert=f"{tool}{_option(table)} -I {name}",
            )
        elif line.startswith("-A "):
            words = _words(line)
            chain = chains.get((table, words[1]))
            if chain is not None:
                remove = f"{tool}{_option(table)} -D {line.removeprefix('-A ')}"
                chain.rules.append(_rule(words[2:], line[:_longest_shown], remove))
    return chains


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise BadInput(f"iptables-save is not understood: {line[:_longest_shown]}: {error}") from error


def _option(table: str) -> str:
    return "" if table == "filter" else f" -t {table}"


def _rule(words: list[str], text: str, remove: str) -> Rule:
    tests: list[Test] = []
    verdict, target = "", ""
    for option, negated, values in _options(words):
        if option in ("-j", "-g"):
            # A jump that leads to no chain is to an extension that goes on below: LOG, MARK, TCPMSS …
            verdict = "goto" if option == "-g" else _verdicts.get(values[0], "jump")
            target = values[0] if verdict in ("jump", "goto") else ""
        elif option == "-m" and values[0] in _modules:
            continue
        elif option in _fields:
            tests.append(_test(_fields[option], values[0], negated))
        elif option not in _silent:
            tests.append(Test(""))
    return Rule(tuple(tests), verdict, target, text, remove)


def _options(words: list[str]) -> Iterator[tuple[str, bool, list[str]]]:
    at = 0
    while at < len(words):
        negated = words[at] == "!"
        at += negated
        option = words[at] if at < len(words) else ""
        at += 1
        values = []
        while at < len(words) and not words[at].startswith("-") and words[at] != "!":
            values.append(words[at])
            at += 1
        yield option, negated, values or [""]


def _test(name: str, text: str, negated: bool) -> Test:
    try:
        return Test(name, tuple(_value(name, part) for part in text.split(",")), negated)
    except ValueError:
        return Test("")


def _value(name: str, text: str) -> Any:
    if name == "dport":
        low, colon, high = text.partition(":")
        return int(low or 0), int(high or 65535) if colon else int(low)
    if name in ("source", "destination"):
        return ip_network(text)
    if name == "mark":
        value, _, mask = text.partition("/")
        return int(mask, 0) if mask else 0xFFFFFFFF, int(value, 0)
    if name in ("in", "out"):
        return f"{text[:-1]}*" if text.endswith("+") else text
    return text.lower() if name == "state" else text
