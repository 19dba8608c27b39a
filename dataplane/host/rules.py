"""Which masquerade and forward rules are wanted, as data, and how nft and iptables write them; pure.

Effect, order and names are flannel's (flannel.md section 8; pkg/trafficmngr). What must stay true: both texts mean
the same. Where flannel's two differ, the iptables rule is the model: the mark is compared under its mask (flannel's
nft rule compares all of it, so a second bit set beside kube-proxy's would undo kube-proxy's choice), and what comes to
our subnet from outside the overlay keeps its source, while what goes to other nodes' subnets does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dataplane.model import IPNetwork, Lease, NetConf

Verdict = Literal["return", "accept", "masquerade"]

kube_proxy_mark = 0x4000  # kube-proxy masquerades what carries it
_multicast = {4: "224.0.0.0/4", 6: "ff00::/8"}


@dataclass(frozen=True, slots=True)
class Overlay:
    """One enabled family: the whole overlay and this node's share."""

    network: IPNetwork
    subnet: IPNetwork

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.network.version


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of ours under the names that flannel gives it.

    Attributes:
        table, base: where iptables has it, and the chain from which it jumps there.
        name, comment: its name and its rules' comment in iptables.
        nft_name, nft_comment, nft_hook: the same in a table of our own.
    """

    table: str
    base: str
    name: str
    comment: str
    nft_name: str
    nft_comment: str
    nft_hook: str


forward_chain = Chain(
    "filter",
    "FORWARD",
    "FLANNEL-FWD",
    "flanneld forward",
    "forward",
    "chain to accept flannel traffic",
    "type filter hook forward priority filter",
)
masquerade_chain = Chain(
    "nat",
    "POSTROUTING",
    "FLANNEL-POSTRTG",
    "flanneld masq",
    "postrtg",
    "chain to manage traffic masquerading by flannel",
    "type nat hook postrouting priority srcnat",
)
chains = (masquerade_chain, forward_chain)


@dataclass(frozen=True, slots=True)
class Rule:
    """What is matched, and what becomes of it; a prefix that begins with "! " matches all but itself."""

    verdict: Verdict
    source: str = ""
    destination: str = ""
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """Every rule that should be there.

    Attributes:
        random_fully: whether source ports are chosen at random where the tool can.
    """

    masquerade: bool
    forward: bool
    random_fully: bool
    overlays: tuple[Overlay, ...]

    def __bool__(self) -> bool:
        return bool(self.masquerade or self.forward)

    def rules(self, chain: Chain, overlay: Overlay) -> tuple[Rule, ...]:
        """Return a chain's rules in order; none: the chain is not wanted."""
        if chain is masquerade_chain:
            return _masquerade_rules(overlay) if self.masquerade else ()
        return _forward_rules(overlay) if self.forward else ()


def overlays(conf: NetConf, own: Lease) -> tuple[Overlay, ...]:
    """Return the enabled families."""
    pairs = ((conf.enable_ipv4, conf.network, own.subnet), (conf.enable_ipv6, conf.ipv6_network, own.ipv6_subnet))
    return tuple(
        Overlay(network, subnet) for on, network, subnet in pairs if on and network is not None and subnet is not None
    )


def _masquerade_rules(overlay: Overlay) -> tuple[Rule, ...]:
    network, subnet = str(overlay.network), str(overlay.subnet)
    return (
        Rule("return", marked=True),
        Rule("return", subnet, network),
        Rule("return", network, subnet),
        Rule("return", f"! {network}", subnet),
        Rule("masquerade", network, f"! {_multicast[overlay.version]}"),
        Rule("masquerade", f"! {network}", network),
    )


def _forward_rules(overlay: Overlay) -> tuple[Rule, ...]:
    return Rule("accept", source=str(overlay.network)), Rule("accept", destination=str(overlay.network))


# iptables


def iptables_jump(chain: Chain) -> str:
    """Return the rule that leads from the base chain to ours, as `iptables -S` prints it."""
    return f'-A {chain.base} -m comment --comment "{chain.comment}" -j {chain.name}'


def iptables_rule(chain: Chain, rule: Rule, random_fully: bool) -> str:
    """Return a rule of our chain, as `iptables -S` prints it."""
    words = ["-A", chain.name]
    for flag, prefix in (("-s", rule.source), ("-d", rule.destination)):
        if prefix:
            words += [*prefix.split()[:-1], flag, prefix.split()[-1]]
    if rule.marked:
        words += ["-m", "mark", "--mark", f"{kube_proxy_mark:#x}/{kube_proxy_mark:#x}"]
    words += ["-m", "comment", "--comment", f'"{chain.comment}"', "-j", rule.verdict.upper()]
    if rule.verdict == "masquerade" and random_fully:
        words.append("--random-fully")
    return " ".join(words)


# nftables


def nft_family(version: int) -> str:
    """Return nft's word for an IP version."""
    return "ip" if version == 4 else "ip6"


def nft_table_name(version: int) -> str:
    """Return the family and the name of our table."""
    return f"{nft_family(version)} flannel-ipv{version}"


def nft_table(wanted: Wanted, overlay: Overlay) -> str:
    """Return our table of one family, as `nft list table` prints it."""
    lines = [f"table {nft_table_name(overlay.version)} {{", f'\tcomment "rules for flannel-ipv{overlay.version}"']
    for chain in reversed(chains):
        rules = wanted.rules(chain, overlay)
        if rules:
            lines.append(f"\tchain {chain.nft_name} {{")
            lines.append(f'\t\tcomment "{chain.nft_comment}"')
            lines.append(f"\t\t{chain.nft_hook}; policy accept;")
            lines.extend(f"\t\t{_nft_rule(rule, overlay.version, wanted.random_fully)}" for rule in rules)
            lines.append("\t}")
    lines.append("}")
    return "\n".join(lines) + "\n"


def _nft_rule(rule: Rule, version: int, random_fully: bool) -> str:
    words = []
    if rule.marked:
        words.append(f"meta mark & {kube_proxy_mark:#010x} == {kube_proxy_mark:#010x}")
    for field, prefix in (("saddr", rule.source), ("daddr", rule.destination)):
        if prefix:
            words.append(f"{nft_family(version)} {field} {prefix.replace('! ', '!= ')}")
    words.append(rule.verdict)
    if rule.verdict == "masquerade" and random_fully:
        words.append("fully-random")
    return " ".join(words)
