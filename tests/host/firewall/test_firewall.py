"""The firewall rules in real namespaces, by the real nft and iptables: put in, kept, and taken away again."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from dataplane.errors import HostError
from dataplane.flannel.subnet_env import SubnetEnv
from dataplane.host import command
from dataplane.host.firewall import nftables
from dataplane.host.firewall.rules import Overlay, iptables_jump, iptables_rule, masquerade_chain, nft_table
from dataplane.keepers import firewall
from dataplane.lab.commands import run
from tests.host.firewall.places import (
    deadline_s,
    isolated,
    kinds,
    make_firewall,
    overlay4,
    overlay6,
    ruleset,
    run_body,
    saved,
    until,
    wanted,
)


@isolated("iptables-nft", "iptables-legacy")
async def test_iptables_shows_the_rules_as_flannel_has_them(kind: str) -> None:
    wall, _ = make_firewall(kind, ipv6=True)
    await wall.open()
    for overlay in (overlay4, overlay6):
        rules = wanted().rules(masquerade_chain, overlay)
        assert saved(overlay.version, "nat") == [
            "*nat",
            iptables_jump(masquerade_chain),
            *(iptables_rule(masquerade_chain, rule, random_fully=True) for rule in rules),
            "COMMIT",
        ]
        assert saved(overlay.version, "filter") == [
            "*filter",
            '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD',
            f'-A FLANNEL-FWD -s {overlay.network} -m comment --comment "flanneld forward" -j ACCEPT',
            f'-A FLANNEL-FWD -d {overlay.network} -m comment --comment "flanneld forward" -j ACCEPT',
            "COMMIT",
        ]


@isolated("nftables")
async def test_nft_shows_the_tables_as_wanted(kind: str) -> None:
    wall, _ = make_firewall(kind, ipv6=True)
    await wall.open()
    for version, overlay in ((4, overlay4), (6, overlay6)):
        listed = run(None, "nft", "list", "table", "ip" if version == 4 else "ip6", f"flannel-ipv{version}").stdout
        assert listed.replace("\n\n", "\n") == nft_table(wanted(overlay), overlay)


@isolated(*kinds)
async def test_ipv4_alone_touches_nothing_of_ipv6(kind: str) -> None:
    wall, _ = make_firewall(kind)
    await wall.open()
    assert "ip6" not in run(None, "nft", "list", "tables").stdout
    if kind == "iptables-legacy":
        assert run(None, "cat", "/proc/net/ip6_tables_names").stdout == ""


@pytest.mark.alone
@isolated(*kinds)
async def test_removed_rules_come_back_and_then_there_is_peace(kind: str) -> None:
    # The legacy interface gives no notice; there the timer must do it.
    wall, state = make_firewall(kind, resync_s=0.3 if kind == "iptables-legacy" else 60.0)
    await wall.open()
    whole = ruleset(kind)
    keeping = asyncio.create_task(wall.run())
    if kind == "nftables":
        removals = ["nft delete table ip flannel-ipv4", "nft flush ruleset", "nft flush chain ip flannel-ipv4 postrtg"]
        removals.append("nft insert rule ip flannel-ipv4 forward drop")
    else:
        removals = ["iptables -F", "iptables -t nat -F FLANNEL-POSTRTG", "iptables -t nat -D FLANNEL-POSTRTG 3"]
        removals += ["iptables -t nat -F POSTROUTING", "iptables -D FORWARD 1", "iptables -I FLANNEL-FWD -j DROP"]
    for number, removal in enumerate(removals, start=1):
        run(None, *removal.split())
        # Counted only when `ensure` is through; a removal before that would be one with this.
        back = lambda number=number: state.events["repairs"] >= number and ruleset(kind) == whole  # noqa: E731
        print(removal)
        await until(back, deadline_s)
    assert "firewall" not in state.blockers
    # The notices of our own last change have been seen once this one's has; none of them is a reason for a repair.
    run(None, "nft", "add", "table", "ip", "flannel-ipv4-of-somebody")
    assert not await wall.ensure()
    assert state.events["repairs"] == len(removals)
    keeping.cancel()
    await asyncio.wait([keeping])
    assert ruleset(kind).startswith(whole)  # and stay when the daemon stops


@isolated(*kinds)
async def test_rules_of_another_network_and_of_the_other_mechanism_go(kind: str) -> None:
    old = Overlay(IPv4Network("10.5.0.0/16"), IPv4Network("10.5.3.0/24"))
    other = "iptables-nft" if kind == "nftables" else "nftables"
    for earlier in (kind, other):
        wall, _ = make_firewall(earlier, overlay=old, ipv6=True)
        await wall.open()
    run(None, "iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.5.0.0/16", "-m", "comment", "--comment", "mine")
    words = ("-s", "10.5.0.0/16", "-m", "comment", "--comment", "flanneld forward", "-j", "ACCEPT")
    run(None, "iptables", "-A", "FORWARD", *words)  # as early flannel did
    previous = SubnetEnv(IPv4Network("10.5.0.0/16"), IPv4Network("10.5.3.0/24"), ipv6_network=IPv6Network("fd00::/56"))
    wall, _ = make_firewall(kind, previous=previous)
    await wall.open()
    everything = "\n".join((ruleset("nftables"), ruleset("iptables")))
    assert [line for line in saved(4, "nat") if "10.5." in line] == [
        "-A POSTROUTING -s 10.5.0.0/16 -m comment --comment mine"
    ]
    if kind == "nftables":
        assert "FLANNEL" not in everything
        assert "flannel-ipv6" not in everything
    else:
        assert "flannel-ipv" not in everything
        assert not any("FLANNEL" in line for table in ("nat", "filter") for line in saved(6, table))
        assert [line for line in saved(4, "filter") if "FORWARD" in line] == [
            '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD'
        ]


@isolated("iptables-nft", "iptables-legacy")
async def test_cleanup_leaves_nothing_of_ours_and_everything_of_others(kind: str) -> None:
    run(None, "nft", "add", "table", "ip", "somebody")
    for tool in ("iptables", "ip6tables"):
        run(None, tool, "-t", "nat", "-N", "FLANNEL-OTHER")
        run(None, tool, "-t", "nat", "-A", "POSTROUTING", "-m", "comment", "--comment", "flanneld masq too")
        run(None, tool, "-A", "FORWARD", "-j", "ACCEPT")
    before = ruleset("iptables"), run(None, "nft", "list", "tables").stdout
    await firewall.remove()
    for earlier in ("nftables", kind):
        wall, _ = make_firewall(earlier, ipv6=True)
        await wall.open()
        made = nftables.Nftables(wanted(overlay4, overlay6))
        await made.apply()  # `open` takes the other mechanism's away
    assert (ruleset("iptables"), run(None, "nft", "list", "tables").stdout) != before
    await firewall.remove()
    assert (ruleset("iptables"), run(None, "nft", "list", "tables").stdout) == before
    await firewall.remove()


@isolated("nftables")
async def test_missing_tools_are_named(kind: str) -> None:
    tools = Path("/run/few")
    run(None, "mkdir", str(tools))
    command._path = str(tools)
    wall, _ = make_firewall(kind)
    with pytest.raises(HostError, match="nft is not installed: install the package nftables"):
        await wall.open()
    wall, _ = make_firewall("iptables")
    with pytest.raises(HostError, match="neither iptables nor nft is installed: install the package"):
        await wall.open()
    wall, state = make_firewall("iptables", masquerade=False)
    await wall.open()
    assert "neither iptables nor nft is installed" in state.notes["firewall"]
    assert "firewall" not in state.blockers
    # nft is installed later: it stands in for iptables, and the note goes.
    (tools / "nft").symlink_to("/usr/sbin/nft")
    await wall.ensure()
    assert "table ip flannel-ipv4" in run(None, "nft", "list", "ruleset").stdout
    assert state.notes == {}
    # And is taken away: a failure that lasts is told, not raised.
    wall, state = make_firewall("iptables")
    await wall.open()
    (tools / "nft").unlink()
    await wall.ensure()
    assert "nft is not installed" in state.blockers["firewall"]


@isolated("nftables", "iptables-nft")
async def test_no_rules_wanted_touches_nothing_unless_ours_are_outdated(kind: str) -> None:
    wall, _ = make_firewall(kind)
    await wall.open()
    whole = ruleset(kind)
    same = SubnetEnv(IPv4Network("10.244.0.0/16"), IPv4Network("10.244.7.0/24"))
    wall, _ = make_firewall(kind, masquerade=False, forward=False, previous=same)
    await wall.open()
    assert ruleset(kind) == whole
    moved = SubnetEnv(IPv4Network("10.244.0.0/16"), IPv4Network("10.244.9.0/24"))
    wall, _ = make_firewall(kind, masquerade=False, forward=False, previous=moved)
    await wall.open()
    assert "10.244" not in ruleset(kind)


@isolated("nftables")
async def test_a_tool_that_fails_or_hangs_says_what_it_was_asked(kind: str) -> None:
    with pytest.raises(HostError, match=r"nft -f -: exit code 1: .*syntax error"):
        await command.call("nft", "-f", "-", given="nonsense")
    command.limit_s = 0.2
    with pytest.raises(HostError, match="sleep 60: no end within"):
        await command.call("sleep", "60")
    assert run(None, "pgrep", "-x", "sleep", check=False).stdout == ""


if __name__ == "__main__":
    run_body()
