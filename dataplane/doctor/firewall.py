"""Do the firewall's rules let the encapsulation in, and the pods' packets through?

Every base chain at the hooks input and forward is asked, since a packet must pass them all. What must stay true: the rules
are listed, never made by looking (iptables-save lists what is there).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from dataplane.doctor import iptables_rules, nft_rules
from dataplane.doctor.finding import Finding, fail, ok, warn
from dataplane.doctor.node import Node, bridge
from dataplane.doctor.ruleset import Chain, Chains, Judgement, Packet, judge
from dataplane.errors import BadInput, HostError
from dataplane.host.command import call, find
from dataplane.host.firewall.iptables import has_legacy_tables, other_tools, tool_name
from dataplane.model import IPNetwork, type_host_gw, type_udp


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules of the host.

    Attributes:
        sources: the chains of each tool.
        legacy: whether iptables-legacy has rules.
        unseen: why some could not be listed.
    """

    sources: Sequence[Chains]
    legacy: bool = False
    unseen: tuple[str, ...] = ()

    def chains(self) -> Iterable[tuple[Chains, Chain]]:
        """Every chain, with those that it may jump to."""
        return ((source, chain) for source in self.sources for chain in source.values())

    @property
    def managers(self) -> list[str]:
        """Programs that keep rules here."""
        names = {
            "firewalld": any(
                chain.scope.endswith(" firewalld") or chain.name == "IN_public" for _, chain in self.chains()
            ),
            "ufw": any(chain.name.startswith("ufw-") for _, chain in self.chains()),
        }
        return [name for name, there in names.items() if there]


async def check_firewall(node: Node) -> list[Finding]:
    """List the rules and judge them."""
    return judge_firewall(node, await gather(node.versions))


async def gather(versions: Iterable[int]) -> Rules:
    """List every rule."""
    sources: list[Chains] = []
    unseen, legacy, modern = [], False, False
    for version in versions:
        try:
            for tool, is_legacy in await _save_tools(version):
                chains = iptables_rules.read(await call(f"{tool}-save"), tool, version)
                legacy = legacy or (is_legacy and any(chain.rules for chain in chains.values()))
                modern = modern or not is_legacy
                sources.append(chains)
        except (HostError, BadInput) as error:
            unseen.append(str(error))
    if find("nft"):
        try:
            chains = nft_rules.read(await call("nft", "-j", "list", "ruleset"))
        except (HostError, BadInput) as error:
            unseen.append(str(error))
        else:
            # What iptables keeps there is read from iptables-save, which says more of it.
            kept = {chain.scope for chain in chains.values() if modern and nft_rules.of_iptables(chain)}
            sources.append({key: chain for key, chain in chains.items() if chain.scope not in kept})
    return Rules(sources, legacy, tuple(unseen))


async def _save_tools(version: int) -> list[tuple[str, bool]]:
    tool = tool_name(version)
    if not find(f"{tool}-save") or not find(tool):
        return []
    is_legacy = "nf_tables" not in await call(tool, "--version")
    own = [(tool, is_legacy)] if not is_legacy or has_legacy_tables(version) else []
    return own + [(other, not is_legacy) for other in await other_tools(version)]


def judge_firewall(node: Node, rules: Rules) -> list[Finding]:
    """Judge the rules."""
    findings = [warn("firewall", f"rules not seen: {why}", "sudo dataplane doctor") for why in rules.unseen]
    for version in node.versions:
        for port in node.ports if version in _underlay(node) else ():
            findings += _judged(node, rules, "input", version, _encapsulation(node, version, port), port)
        for outward in (True, False):
            packet = _forwarded(node, version, outward)
            findings += _judged(node, rules, "forward", version, packet, 0) if packet else []
    findings = list(dict.fromkeys(findings))  # a chain of both IP versions, and both ways of a packet
    if rules.legacy and any(
        chain.rules for source in rules.sources for chain in source.values() if chain.tool == "nft"
    ):
        text = "rules of iptables-legacy and of nftables are both in use: a packet must pass both, and each shows its own alone"
        findings.append(warn("firewall", text, "iptables-legacy-save; nft list ruleset"))
    if findings:
        return findings
    said = [f"UDP port {port} is let in" for port in node.ports]
    said += ["packets of pods are forwarded"] if node.networks else []
    said += [f"{name} is active" for name in rules.managers]
    return [ok("firewall", "; ".join(said) or "nothing to look for")]


def _underlay(node: Node) -> tuple[int, ...]:
    """IP versions that carry the encapsulation: all with vxlan, one with the udp backend."""
    if node.kind != type_udp:
        return node.versions
    return (4,) if any(address.version == 4 for address in node.own) else (6,)


def _encapsulation(node: Node, version: int, port: int) -> Packet:
    """What a peer sends us."""
    peers = tuple(ip_network(peer) for peer in node.peers if peer.version == version)
    own = tuple(ip_network(address) for address in node.own if address.version == version)
    known: dict[str, Any] = {"protocol": "udp", "other protocol": "", "dport": port, "in": node.external or None}
    return _new(version) | known | {"source": peers or None, "destination": own[:1] or None}


def _forwarded(node: Node, version: int, outward: bool) -> Packet | None:
    """What our pods send to those of other nodes, or the other way; None: they have no addresses yet."""
    network = node.network(version)
    if network is None:
        return None
    pods: tuple[IPNetwork, ...] = (node.subnet(version) or network,)
    names = list(node.devices or {})
    device = next((name for name in names if ("-v6" in name) == (version == 6)), names[0] if names else None)
    if node.kind == type_host_gw:
        device = node.external or None
    ends = (bridge, device, pods, (network,)) if outward else (device, bridge, (network,), pods)
    return _new(version) | dict(zip(("in", "out", "source", "destination"), ends, strict=True))


def _new(version: int) -> dict[str, Any]:
    """A packet that is the first of its kind: of no connection, without marks."""
    return {"version": version, "state": "new", "status": "none", "mark": 0}


def _judged(node: Node, rules: Rules, hook: str, version: int, packet: Packet, port: int) -> list[Finding]:
    findings = []
    for source, chain in rules.chains():
        if chain.hook == hook and version in chain.versions:
            found = _judge_chain(node, rules, chain, judge(source, chain, packet), port)
            findings += [found] if found else []
    return findings


def _judge_chain(node: Node, rules: Rules, chain: Chain, judged: Judgement, port: int) -> Finding | None:
    what = f"UDP port {port}, which the encapsulation needs" if port else "forwarded packets of pods"
    mend = _mend(node, rules, chain, judged, port)
    if judged.verdict == "drop":
        if judged.rule is None:
            text = f"{chain.title} has policy drop, and no rule accepts {what}"
        else:
            text = f"{chain.title} drops {what}, by the rule: {judged.rule.text}"
        perhaps = [rule for rule in judged.doubts if rule.verdict == "accept"]
        if perhaps:
            return warn("firewall", f"{text}; unless this one accepts it: {perhaps[0].text}", mend)
        if port and len(node.ports) > 1:
            return warn("firewall", f"{text}, if the backend is to use this port", mend)
        if not port and node.document is None:
            return warn("firewall", f"{text}, unless the daemon puts in its own (--iptables-forward-rules)", mend)
        return fail("firewall", text, mend)
    named = [rule for rule in judged.doubts if rule.verdict == "drop" and rule.asks("dport" if port else "source")]
    if named:
        return warn("firewall", f"{chain.title} drops some of {what}, by the rule: {named[0].text}", named[0].remove)
    return None


def _mend(node: Node, rules: Rules, chain: Chain, judged: Judgement, port: int) -> str:
    if port and judged.rule is not None and judged.rule.asks("dport"):
        return judged.rule.remove
    networks = [network for network in node.networks if network.version in chain.versions]
    if chain.scope.endswith(" firewalld"):
        sources = " ".join(f"--add-source={network}" for network in networks)
        change = f"--add-port={port}/udp" if port else f"--zone=trusted {sources}"
        return f"firewall-cmd --permanent {change} && firewall-cmd --reload"
    if chain.tool != "nft" and "ufw" in rules.managers:
        ways = [f"ufw route allow {way} {network}" for network in networks for way in ("from", "to")]
        return f"ufw allow {port}/udp" if port else " && ".join(ways)
    if chain.tool == "nft":
        rest = [
            f"{'ip' if network.version == 4 else 'ip6'} {end} {network} accept"
            for network in networks
            for end in ("saddr", "daddr")
        ]
        rest = [f"udp dport {port} accept"] if port else rest
    else:
        rest = [f"{end} {network} -j ACCEPT" for network in networks for end in ("-s", "-d")]
        rest = [f"-p udp --dport {port} -j ACCEPT"] if port else rest
    return " && ".join(f"{chain.insert} {rule}" for rule in rest)
