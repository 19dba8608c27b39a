"""`nft -j list ruleset` as rules; pure. Source: libnftables-json(5).

What must stay true: what is not understood becomes a test that cannot be judged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

from dataplane.doctor.ruleset import Chain, Rule, Test
from dataplane.errors import BadInput

_families = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}
_verdicts = {"accept": "accept", "drop": "drop", "reject": "drop", "return": "return"}
_meta = {
    "l4proto": "protocol",
    "iifname": "in",
    "oifname": "out",
    "iif": "in",
    "oif": "out",
    "nfproto": "version",
    "mark": "mark",
}
_payload = {
    ("udp", "dport"): "dport",
    ("th", "dport"): "dport",
    ("ip", "saddr"): "source",
    ("ip6", "saddr"): "source",
    ("ip", "daddr"): "destination",
    ("ip6", "daddr"): "destination",
    ("ip", "protocol"): "protocol",
    ("ip6", "nexthdr"): "protocol",
}
_others = frozenset(("tcp", "sctp", "dccp", "icmp", "icmpv6"))
_silent = frozenset(("counter", "log", "mangle", "notrack", "ct helper", "flow"))  # neither conditions nor verdicts
_iptables_bases = frozenset(("INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"))


def read(text: str) -> dict[tuple[str, str], Chain]:
    """Return the chains of the families that IP packets pass, by table and name; raises `BadInput`."""
    try:
        return _read(text)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadInput(f"nft -j list ruleset is not understood: {error!r}") from error


def _read(text: str) -> dict[tuple[str, str], Chain]:
    items = json.loads(text).get("nftables", [])
    chains: dict[tuple[str, str], Chain] = {}
    sets: dict[tuple[str, str], list[Any]] = {}
    for item in items:
        if "chain" in item and item["chain"]["family"] in _families:
            row = item["chain"]
            table = f"{row['family']} {row['table']}"
            chains[table, row["name"]] = Chain(
                table,
                row["name"],
                row.get("hook", ""),
                _families[row["family"]],
                row.get("policy", "accept"),
                insert=f"nft insert rule {table} {row['name']}",
            )
        for kind in ("set", "map"):
            if kind in item:
                row = item[kind]
                sets[f"{row['family']} {row['table']}", row["name"]] = row.get("elem", [])
    for item in items:
        if "rule" in item:
            row = item["rule"]
            table = f"{row['family']} {row['table']}"
            chain = chains.get((table, row["chain"]))
            if chain is not None:
                remove = f"nft delete rule {table} {row['chain']} handle {row['handle']}"
                named = {name: elements for (of, name), elements in sets.items() if of == table}
                chain.rules.extend(_rules(row.get("expr", []), named, remove))
    return chains


def of_iptables(chain: Chain) -> bool:
    """Say whether iptables over nf_tables keeps this chain's table."""
    family, _, name = chain.scope.partition(" ")
    return (
        family in ("ip", "ip6")
        and name in ("filter", "nat", "mangle", "raw", "security")
        and chain.name in _iptables_bases
    )


def _rules(expressions: list[Any], sets: dict[str, list[Any]], remove: str) -> Iterator[Rule]:
    tests: list[Test] = []
    words: list[str] = []
    for expression in expressions:
        kind, body = _only(expression)
        if kind == "match":
            tests.append(_test(body["left"], body["op"], body["right"], sets))
            words.append(_shown_match(body))
        elif kind == "vmap":
            data = body["data"]
            pairs = sets.get(data[1:], []) if isinstance(data, str) else data.get("set", [])
            for value, verdict in pairs:
                test = _test(body["key"], "==", value, sets)
                text = " ".join((*words, _shown(body["key"]), _shown(value), *_verdict(verdict)))
                yield Rule((*tests, test), *_verdict(verdict), text=text, remove=remove)
        elif kind == "xt":
            name = (body or {}).get("name", "")
            if (body or {}).get("type") == "target" and name in ("REJECT", "DROP"):
                yield Rule(tuple(tests), "drop", text=" ".join((*words, name)), remove=remove)
            elif name != "comment":
                tests.append(Test(""))
        elif _verdict(expression)[0]:
            verdict, target = _verdict(expression)
            text = " ".join((*words, kind, target)).strip()
            yield Rule(tuple(tests), verdict, target, text, remove)
        elif kind not in _silent:
            tests.append(Test(""))


def _verdict(expression: Any) -> tuple[str, str]:
    kind, body = _only(expression)
    if kind in ("jump", "goto"):
        return kind, body["target"]
    return _verdicts.get(kind, ""), ""


def _test(left: Any, op: str, right: Any, sets: dict[str, list[Any]]) -> Test:
    name, mask = _field(left)
    values = _flat(right, sets)
    try:
        read = None if op not in ("==", "!=", "in") else _values(name, values, mask)
    except ValueError:
        read = None
    # A field of another protocol is of no datagram, whatever its value.
    return Test("") if read is None else Test(name, read, op == "!=" and name != "other protocol")


def _field(left: Any) -> tuple[str, int]:
    """The field that a left side names, "" for others, and the mask that is laid over it."""
    kind, body = _only(left)
    name, mask = "", 0
    if kind == "&" and isinstance(body[1], int) and _field(body[0])[0] == "mark":
        name, mask = "mark", body[1]
    elif kind == "payload":
        name = _payload.get((body.get("protocol"), body.get("field")), "")
        name = "other protocol" if body.get("protocol") in _others else name
    elif kind == "meta":
        name, mask = _meta.get(body["key"], ""), 0xFFFFFFFF
    elif kind == "ct" and body["key"] in ("state", "status"):
        name = body["key"]
    return name, mask


def _only(value: Any) -> tuple[str, Any]:
    """The one member of an object, by its name; ("", None) for anything else."""
    return next(iter(value.items()), ("", None)) if isinstance(value, dict) else ("", None)


def _flat(right: Any, sets: dict[str, list[Any]]) -> list[Any]:
    if isinstance(right, str) and right.startswith("@"):
        return sets.get(right[1:], [])
    if isinstance(right, dict) and "set" in right:
        body = right["set"]
        return body if isinstance(body, list) else [body]
    return right if isinstance(right, list) else [right]


def _values(name: str, values: list[Any], mask: int) -> tuple[Any, ...] | None:
    read: list[Any] = []
    for raw in values:
        value = raw["elem"]["val"] if isinstance(raw, dict) and "elem" in raw else raw
        ends = value.get("range") if isinstance(value, dict) else None
        if name == "dport" and isinstance(value, int):
            read.append((value, value))
        elif name == "dport" and ends:
            read.append((ends[0], ends[1]))
        elif name in ("source", "destination") and isinstance(value, str):
            read.append(ip_network(value))
        elif name in ("source", "destination") and isinstance(value, dict) and "prefix" in value:
            read.append(ip_network(f"{value['prefix']['addr']}/{value['prefix']['len']}"))
        elif name == "mark" and isinstance(value, int):
            read.append((mask, value))
        elif name == "version":
            read.append({"ipv4": 4, "ipv6": 6}.get(value, 0))
        elif name in ("in", "out", "state", "status", "protocol", "other protocol") and isinstance(value, (str, int)):
            read.append({17: "udp"}.get(value, str(value)) if isinstance(value, int) else value)
        else:
            return None
    return tuple(read)


def _shown_match(body: Any) -> str:
    op = "" if body["op"] in ("==", "in") else f"{body['op']} "
    return f"{_shown(body['left'])} {op}{_shown(body['right'])}"


def _shown(value: Any) -> str:
    """Write a side of a match about as nft does."""
    kind, body = _only(value)
    if kind == "payload":
        return f"{body.get('protocol', '')} {body.get('field', '')}".strip()
    if kind == "set":
        return f"{{ {_list(body)} }}"
    if kind in ("meta", "ct"):
        text = body["key"] if kind == "meta" else f"ct {body['key']}"
    elif kind == "prefix":
        text = f"{body['addr']}/{body['len']}"
    elif kind == "range":
        text = f"{body[0]}-{body[1]}"
    else:
        text = kind or _list(value)
    return str(text)


def _list(values: Any) -> str:
    return ", ".join(map(_shown, values)) if isinstance(values, list) else str(values)
