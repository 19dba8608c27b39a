"""Firewall rules as nft and iptables list them: what becomes of a packet, and what cannot be told."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

import pytest

from dataplane.doctor import iptables_rules, nft_rules
from dataplane.doctor.ruleset import Judgement, judge
from dataplane.errors import BadInput

packet: dict[str, Any] = {
    "version": 4,
    "state": "new",
    "status": "none",
    "mark": 0,
    "protocol": "udp",
    "other protocol": "",
    "dport": 8472,
    "in": "eth0",
    "source": (ip_network("192.0.2.2"), ip_network("192.0.2.3")),
}


def nft(*rules: list[dict[str, Any]], policy: str = "accept", more: tuple[dict[str, Any], ...] = ()) -> Judgement:
    """As `nft -j list ruleset` of 1.0.6 has it."""
    table = {"family": "inet", "table": "filter"}
    items: list[dict[str, Any]] = [
        {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"table": {"family": "inet", "name": "filter", "handle": 1}},
        {"set": table | {"name": "ports", "type": "inet_service", "handle": 3, "elem": [53, 8472]}},
        {"chain": table | {"name": "sub", "handle": 1}},
        {
            "chain": table
            | {"name": "input", "handle": 2, "type": "filter", "hook": "input", "prio": 0, "policy": policy}
        },
        *({"rule": table | {"chain": "sub", "handle": 90, "expr": rule}} for rule in more),
        *({"rule": table | {"chain": "input", "handle": 7, "expr": list(rule)}} for rule in rules),
    ]
    chains = nft_rules.read(json.dumps({"nftables": items}))
    return judge(chains, chains["inet filter", "input"], packet)


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


port = {"payload": {"protocol": "udp", "field": "dport"}}
th_port = {"payload": {"protocol": "th", "field": "dport"}}
tcp_port = {"payload": {"protocol": "tcp", "field": "dport"}}
source = {"payload": {"protocol": "ip", "field": "saddr"}}
source6 = {"payload": {"protocol": "ip6", "field": "saddr"}}
state = {"ct": {"key": "state"}}
drop, accept = {"drop": None}, {"accept": None}
reject = {"reject": {"type": "icmpx", "expr": "port-unreachable"}}
jump, goto = {"jump": {"target": "sub"}}, {"goto": {"target": "sub"}}


def prefix(text: str) -> dict[str, Any]:
    address, _, length = text.partition("/")
    return {"prefix": {"addr": address, "len": int(length)}}


@pytest.mark.parametrize(
    "rule",
    [
        [match(port, 8472), drop],
        [match(port, {"set": [53, {"range": [8000, 9000]}]}), {"counter": {"packets": 0, "bytes": 0}}, drop],
        [match(port, "@ports"), reject],
        [match({"meta": {"key": "l4proto"}}, {"set": ["tcp", "udp"]}), match(th_port, 8472), drop],
        [match(port, 53, "!="), drop],
        [match({"meta": {"key": "iifname"}}, "eth*"), drop],
        [match(source, prefix("192.0.2.0/24")), drop],
        [match(source, prefix("10.0.0.0/8"), "!="), drop],
        [match(state, ["new", "untracked"], "in"), drop],
        [{"vmap": {"key": state, "data": {"set": [["invalid", accept], ["new", drop]]}}}],
        [match({"&": [{"meta": {"key": "mark"}}, 0x4000]}, 0), drop],
        [drop],
    ],
)
def test_nft_rules_that_surely_drop(rule: list[dict[str, Any]]) -> None:
    judged = nft(rule)
    assert (judged.verdict, judged.doubts) == ("drop", ())
    assert judged.rule is not None
    assert judged.rule.remove == "nft delete rule inet filter input handle 7"


@pytest.mark.parametrize(
    "rule",
    [
        [match(port, 53), drop],
        [match(port, 8472, "!="), drop],
        [match(tcp_port, 22, "!="), drop],  # asks for TCP without saying so
        [match({"meta": {"key": "iifname"}}, "lo"), drop],
        [match(source, prefix("10.0.0.0/8")), drop],
        [match(source6, prefix("fd00::/8"), "!="), drop],  # asks for IPv6
        [match(state, ["established", "related"], "in"), drop],
        [match({"&": [{"meta": {"key": "mark"}}, 0x4000]}, 0x4000), drop],
        [match(port, 8472), {"counter": {"packets": 0, "bytes": 0}}],
    ],
)
def test_nft_rules_that_surely_do_not(rule: list[dict[str, Any]]) -> None:
    assert nft(rule) == Judgement("accept", None)


@pytest.mark.parametrize(
    "rule",
    [
        [match(source, "192.0.2.2"), match(port, 8472), drop],  # of one peer
        [match({"payload": {"protocol": "udp", "field": "length"}}, 99), drop],
        [{"limit": {"rate": 5, "per": "second"}}, drop],
        [{"xt": {"type": "match", "name": "length"}}, drop],
        [match({"concat": [source, port]}, {"concat": ["192.0.2.2", 8472]}), drop],
    ],
)
def test_what_cannot_be_told_of_nft_rules_is_a_doubt(rule: list[dict[str, Any]]) -> None:
    judged = nft(rule)
    assert (judged.verdict, len(judged.doubts)) == ("accept", 1)


def test_chains_are_followed_as_the_kernel_follows_them() -> None:
    assert nft([jump], policy="drop", more=([accept],)).verdict == "accept"
    assert nft([jump], [accept], policy="drop", more=([match(port, 53), accept],)).verdict == "accept"
    # Behind a goto comes the policy.
    assert nft([goto], [accept], policy="drop", more=([match(port, 53), accept],)) == Judgement("drop", None)
    assert nft([jump], policy="drop", more=([{"return": None}], [accept])) == Judgement("drop", None)
    perhaps = nft([jump], policy="drop", more=([match(source, "192.0.2.2"), {"return": None}], [accept]))
    assert (perhaps.verdict, perhaps.rule, len(perhaps.doubts)) == ("drop", None, 1)
    assert nft([jump], more=([jump],)).verdict == "accept"  # no kernel takes it; it ends all the same


saved = """\
# Generated by iptables-save v1.8.9 (nf_tables)
*filter
:INPUT {policy} [0:0]
:FORWARD ACCEPT [0:0]
:OWN - [0:0]
{rules}
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p udp -m udp --dport 8472 -j DROP
COMMIT
"""


def iptables(*rules: str, policy: str = "ACCEPT") -> Judgement:
    text = saved.format(policy=policy, rules="\n".join(rules))
    chains = iptables_rules.read(text, "iptables", 4)
    assert {table for table, _ in chains} == {"filter"}
    return judge(chains, chains["filter", "INPUT"], packet)


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -p udp -m udp --dport 8472 -j DROP",
        '-A INPUT -p udp -m multiport --dports 53,8000:9000 -m comment --comment "no -j ACCEPT" -j REJECT --reject-with x',
        "-A INPUT ! -s 10.0.0.0/8 -i eth+ -m conntrack --ctstate NEW,INVALID -j DROP",
        "-A INPUT -s 192.0.2.0/24 -j DROP",
        "-A INPUT -m mark ! --mark 0x4000/0x4000 -j DROP",
        "-A INPUT -p udp -m udp ! --dport 53 -j DROP",
    ],
)
def test_iptables_rules_that_surely_drop(rule: str) -> None:
    judged = iptables(rule)
    assert (judged.verdict, judged.doubts) == ("drop", ())
    assert judged.rule is not None
    assert judged.rule.remove == rule.replace("-A", "iptables -D", 1)


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -p tcp -m tcp --dport 8472 -j DROP",
        "-A INPUT ! -i eth0 -j DROP",
        "-A INPUT -m conntrack --ctstate INVALID -j DROP",
        "-A INPUT -j LOG --log-prefix x",
        "-A FORWARD -j DROP",
    ],
)
def test_iptables_rules_that_surely_do_not(rule: str) -> None:
    assert iptables(rule) == Judgement("accept", None)


def test_iptables_chains_and_doubts() -> None:
    assert iptables("-A INPUT -j OWN", "-A OWN -p udp -j ACCEPT", policy="DROP").verdict == "accept"
    assert iptables("-A INPUT -g OWN", "-A INPUT -j ACCEPT", policy="DROP") == Judgement("drop", None)
    assert iptables("-A INPUT -j OWN", "-A OWN -j RETURN", "-A OWN -j DROP").verdict == "accept"
    judged = iptables("-A INPUT -m set --match-set nodes src -j ACCEPT", policy="DROP")
    assert (judged.verdict, [rule.verdict for rule in judged.doubts]) == ("drop", ["accept"])


def test_listings_that_are_not_understood_are_bad_input() -> None:
    for text in ("", "[]", '{"nftables": [{"chain": {"family": "ip"}}]}'):
        with pytest.raises(BadInput, match="not understood"):
            nft_rules.read(text)
    with pytest.raises(BadInput, match="not understood"):
        iptables('-A INPUT -m comment --comment "open')
