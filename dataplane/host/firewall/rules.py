"""Which masquerade, forward and encapsulation rules are wanted, as data, and how nft and iptables write them; pure.

Effect, order and names are flannel's (flannel.md section 8; pkg/trafficmngr). What must stay true: both texts mean
the same. Where flannel's two differ, the iptables rule is the model: the mark is compared under its mask (flannel's
nft rule compares all of it, so a second bit set beside kube-proxy's would undo kube-proxy's choice), and what comes to
our subnet from outside the overlay keeps its source, while what goes to other nodes' subnets does not.

The encapsulation rules are our own. Peers know a node by its underlay address, and a pod's packet leaves with that
address once it is masqueraded: so what this node forwards must never reach an encapsulation port, only what it sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dataplane.model import IPNetwork, Lease, NetConf

Verdict = Literal["return", "accept", "masquerade", "drop"]

kube_proxy_mark = 0x4000  # kube-proxy masquerades what carries it
default_ports = frozenset((8285, 8472))  # flannel's udp and vxlan: peers may run what we do not
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
# mangle, because it comes before whatever accepts in filter.
encap_forward_chain = Chain(
    "mangle",
    "FORWARD",
    "DATAPLANE-ENCAP-FWD",
    "dataplane encap forward",
    "encap_forward",
    "chain to drop forwarded encapsulation",
    "type filter hook forward priority mangle",
)
encap_input_chain = Chain(
    "mangle",
    "INPUT",
    "DATAPLANE-ENCAP-IN",
    "dataplane encap input",
    "encap_input",
    "chain to drop encapsulation from elsewhere than the underlay",
    "type filter hook input priority mangle",
)
chains = (masquerade_chain, forward_chain, encap_forward_chain, encap_input_chain)
first_chains = frozenset((encap_forward_chain, encap_input_chain))
"""Chains whose jump comes before the rules of others."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is matched, and what becomes of it; a prefix that begins with "! " matches all but itself.

    Attributes:
        destination: a prefix, or zeros under a mask: "::/::fffe".
        interface: by which it arrives.
        ports: UDP destination ports, ascending.
    """

    verdict: Verdict
    source: str = ""
    destination: str = ""
    marked: bool = False
    interface: str = ""
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Encap:
    """Where encapsulation may arrive.

    Attributes:
        port: our UDP port; None: the backend has none.
        interface: the external interface.
    """

    port: int | None
    interface: str


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
    encap: Encap | None = None

    def __bool__(self) -> bool:
        return bool(self.masquerade or self.forward or self.encap)

    def rules(self, chain: Chain, overlay: Overlay) -> tuple[Rule, ...]:
        """Return a chain's rules in order; none: the chain is not wanted."""
        if chain is masquerade_chain:
            return _masquerade_rules(overlay) if self.masquerade else ()
        if chain is forward_chain:
            return _forward_rules(overlay) if self.forward else ()
        if self.encap is None:
            return ()
        return (_encap_forward_rules if chain is encap_forward_chain else _encap_input_rules)(overlay, self.encap)


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


def _encap_forward_rules(overlay: Overlay, encap: Encap) -> tuple[Rule, ...]:
    ports = tuple(sorted(default_ports | ({encap.port} if encap.port is not None else set())))
    # A subnet's .0 is a node's tunnel device and .1 its bridge: not pods, and a kernel's vxlan socket listens on both.
    mask = type(overlay.network.network_address)(int(overlay.subnet.hostmask) & ~1)
    nodes = f"{'0.0.0.0' if overlay.version == 4 else '::'}/{mask}"
    return (
        Rule("drop", destination=f"! {overlay.network}", ports=ports),
        Rule("drop", destination=nodes, ports=ports),
    )


def _encap_input_rules(overlay: Overlay, encap: Encap) -> tuple[Rule, ...]:
    network = str(overlay.network)
    ours = () if encap.port is None else (encap.port,)
    # On a default port that is not ours some other tunnel of this host may listen: only the overlay is kept from it.
    others = tuple(sorted(default_ports - set(ours)))
    return (
        Rule("return", interface="lo"),
        Rule("return", interface=encap.interface),
        *(Rule("drop", ports=(port,)) for port in ours),
        Rule("drop", source=network, ports=others),
        Rule("drop", destination=network, ports=others),
    )


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
    if rule.interface:
        words += ["-i", rule.interface]
    if rule.ports:
        words += ["-p", "udp", "-m", "multiport", "--dports", ",".join(map(str, rule.ports))]
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
            lines.extend(f"\t\t{rule}" for rule in nft_more(chain, overlay))
            lines.append("\t}")
    lines.append("}")
    return "\n".join(lines) + "\n"


def nft_more(chain: Chain, overlay: Overlay) -> tuple[str, ...]:
    """Return the rules of a wanted chain that nft alone needs.

    The first piece of an IPv6 packet may hold extension headers and no UDP header, and receivers before Linux 5.10 put it
    together with the rest. iptables drops such a piece by itself where it looks for a port.
    """
    if chain is not encap_forward_chain or overlay.version == 4:
        return ()
    # What shows its protocol, and its length if that is UDP, has been judged.
    first = "frag frag-off 0"
    return f"{first} meta l4proto != udp return", f"{first} udp length != 0 return", f"{first} counter drop"


def _nft_rule(rule: Rule, version: int, random_fully: bool) -> str:
    words = []
    if rule.marked:
        words.append(f"meta mark & {kube_proxy_mark:#010x} == {kube_proxy_mark:#010x}")
    for field, prefix in (("saddr", rule.source), ("daddr", rule.destination)):
        if prefix:
            words.append(f"{nft_family(version)} {field} {_nft_prefix(prefix)}")
    if rule.interface:
        words.append(f'iifname "{rule.interface}"')
    if rule.ports:
        ports = ", ".join(map(str, rule.ports))
        words.append(f"udp dport {{ {ports} }}" if len(rule.ports) > 1 else f"udp dport {ports}")
    if rule.verdict == "drop":
        words.append("counter")
    words.append(rule.verdict)
    if rule.verdict == "masquerade" and random_fully:
        words.append("fully-random")
    return " ".join(words)


def _nft_prefix(prefix: str) -> str:
    zeros, _, mask = prefix.partition("/")
    return f"& {mask} == {zeros}" if not mask.isdigit() else prefix.replace("! ", "!= ")
