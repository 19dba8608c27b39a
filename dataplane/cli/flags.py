"""The daemon's flags: flanneld's names and defaults, in every form that Go's flag package takes.

How it works: `normalise` rewrites every Go form (-x=v, -x v, --x v, a bare boolean) into --x=v, argparse reads
that, then the environment fills in what the command line left out (`settings`). What must stay true: a flag means what
flanneld's documentation says, or is refused, or its missing feature is named in `Options.warnings`; nothing is
silently ignored. Source: flannel main.go, Go's flag package.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, TypeVar

from dataplane.cli.begin import default_run_dir
from dataplane.stores.etcd import access as etcd_access
from dataplane.stores.kube import access as kube_access

Address = TypeVar("Address", IPv4Address, IPv6Address)

true_words = ("1", "t", "T", "true", "TRUE", "True")
false_words = ("0", "f", "F", "false", "FALSE", "False")
max_queues = 16  # of the core: DP_MAX_WORKERS, not imported because a wrong flag must not need the core


def _boolean(text: str) -> bool:
    if text not in true_words + false_words:
        raise ValueError(f"{text!r} is neither true nor false")
    return text in true_words


def _integer(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text, 0)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
        if not low <= value <= high:
            raise ValueError(f"{value} is not within {low} to {high}")
        return value

    return read


def _ipv4(text: str) -> IPv4Address | None:
    return _of_a_node(IPv4Address(text)) if text else None


def _ipv6(text: str) -> IPv6Address | None:
    return _of_a_node(IPv6Address(text)) if text else None


def _of_a_node(ip: Address) -> Address:
    """Refuse what peers would refuse (`backends.peers.peer_next_hop`): our lease would be of no use."""
    mapped = isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None
    broadcast = ip == IPv4Address("255.255.255.255")
    if ip.is_unspecified or ip.is_multicast or ip.is_loopback or mapped or broadcast:
        raise ValueError(f"{ip} is no address at which other nodes reach this one; allowed is a unicast address")
    return ip


def _text(text: str) -> str:
    if not text:
        raise ValueError("a value is needed")
    return text


def _path(text: str) -> Path:
    return Path(_text(text))


def _any_ip(text: str) -> str:
    return str(ip_address(text))


def _regex(text: str) -> str:
    try:
        re.compile(_text(text))
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is none of {', '.join(words)}")
        return text

    return read


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. `absent` says what is not built yet when the flag is set to anything but its default."""

    name: str
    read: Callable[[str], Any]
    default: Any
    help: str
    many: bool = False
    absent: str = ""

    @property
    def variable(self) -> str:
        """The environment variable that stands in for the flag."""
        return "FLANNELD_" + self.name.upper().replace("-", "_")


no_klog = "messages cannot be chosen by source file here; -v=1 shows them all"

flags = (
    Flag("iface", _text, (), "external interface, by name or address; may be repeated, tried in order", many=True),
    Flag("iface-regex", _regex, (), "the same by regular expression, tried after every --iface", many=True),
    Flag("iface-can-reach", str, "", "the interface by which the host reaches this address, tried last"),
    Flag("public-ip", _ipv4, None, "address at which the other nodes reach this one"),
    Flag("public-ipv6", _ipv6, None, "the same for IPv6"),
    Flag("subnet-file", _path, Path("/run/flannel/subnet.env"), "where the subnet of this node is written for CNI"),
    Flag("net-config-path", _path, Path("/etc/kube-flannel/net-conf.json"), "network configuration"),
    Flag("subnet-lease-renew-margin", _integer(1, 1439), 60, "minutes before expiry at which the lease is renewed"),
    Flag("healthz-ip", _any_ip, "0.0.0.0", "address of /healthz, /readyz and /metrics"),
    Flag("healthz-port", _integer(0, 65535), 0, "port of the same; 0 switches them off"),
    Flag("lease-dir", _path, Path("/var/lib/dataplane"), "directory of the embedded lease store"),
    Flag("run-dir", _path, Path(default_run_dir), "directory of the status socket and the pid file"),
    Flag("takeover", _boolean, False, "take over from the daemon that has the run directory, without a break"),
    Flag("leave-tun", _boolean, True, "leave the TUN for the next daemon when this one ends; false: it goes at once"),
    Flag(
        "datapath",
        _one_of("auto", "kernel", "userspace"),
        "auto",
        "who carries vxlan packets: the kernel, our own forwarder, or the kernel where it can",
    ),
    Flag("workers", _integer(1, max_queues), None, "TUN queues, each with a thread of its own"),
    Flag("spin-us", _integer(0, 1000), 50, "microseconds that an idle worker looks for packets before it sleeps"),
    Flag("log-json", _boolean, False, "write the log as JSON lines"),
    Flag("v", _integer(0, 2**31 - 1), 0, "log level; above 0 also debug messages"),
    Flag("version", _boolean, False, "print the version and leave"),
    Flag("ip-masq", _boolean, False, "masquerade what leaves the overlay"),
    Flag("ip-masq-fully-random-disable", _boolean, False, "masquerade without random ports"),
    Flag("iptables-forward-rules", _boolean, True, "accept forwarded overlay packets"),
    Flag("iptables-resync", _integer(1, 2**31 - 1), 5, "seconds between checks of the rules"),
    Flag("ip-blackhole-route", _boolean, False, "blackhole route for our own subnet"),
    Flag("vmodule", str, "", "log level by source file", absent=no_klog),
    Flag("log_backtrace_at", str, ":0", "stack trace at a source line", absent=no_klog),
    Flag("kube-subnet-mgr", _boolean, False, "take leases from Kubernetes: each Node is one, by its annotations"),
    Flag("kube-api-url", str, "", "Kubernetes API server; goes before the kubeconfig's"),
    Flag("kubeconfig-file", str, "", "Kubernetes credentials; without them and the URL, those of our pod"),
    Flag("kube-annotation-prefix", str, kube_access.default_prefix, "prefix of the Nodes' annotations"),
    Flag("set-node-network-unavailable", _boolean, True, "set our Node's condition NetworkUnavailable to False"),
    Flag(
        "etcd-endpoints",
        _text,
        etcd_access.default_endpoints,
        "take leases from etcd, from these servers, commas between",
    ),
    Flag("etcd-prefix", str, etcd_access.default_prefix, "prefix of the keys in etcd"),
    Flag("etcd-keyfile", str, "", "TLS: our key"),
    Flag("etcd-certfile", str, "", "TLS: our certificate"),
    Flag("etcd-cafile", str, "", "TLS: certificate authority of the servers"),
    Flag("etcd-username", str, "", "user name in etcd"),
    Flag("etcd-password", str, "", "password in etcd"),
)
by_name = {flag.name: flag for flag in flags}


def normalise(words: Sequence[str]) -> list[str]:
    """Rewrite Go's flag forms into --name=value; what is no known flag stays as it is, for argparse to refuse."""
    out: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            out.extend([word, *rest])
            break
        name, equals, value = word.lstrip("-").partition("=")
        flag = by_name.get(name)
        if flag is None or not word.startswith("-") or word.startswith("---"):
            out.append(word)
        elif equals:
            out.append(f"--{name}={value}")
        elif flag.read is _boolean:
            out.append(f"--{name}=true")
        else:
            following = next(rest, None)
            out.append(f"--{name}" if following is None else f"--{name}={following}")
    return out


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add every flag to `parser`; a flag that is not given leaves no trace in the namespace."""
    for flag in flags:
        parser.add_argument(
            f"--{flag.name}",
            dest=flag.name,
            type=_reader(flag),
            action="append" if flag.many else "store",
            default=argparse.SUPPRESS,
            metavar="BOOL" if flag.read is _boolean else "VALUE",
            help=_help(flag).replace("%", "%%"),
        )


def _help(flag: Flag) -> str:
    if flag.name == "workers":
        return f"{flag.help} (default: half of the CPUs, 1 to 4; here {default_workers()})"
    if flag.name == "version" or flag.default in (None, (), ""):
        return flag.help
    default = str(flag.default).lower() if flag.read is _boolean else flag.default
    return f"{flag.help} (default: {default})"


def _reader(flag: Flag) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return flag.read(text)
        except ValueError as error:
            # argparse would hide the reason of a bare ValueError.
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def default_workers() -> int:
    """Half of the CPUs we may use, one to four: pods and the kernel's stack want the others."""
    return max(1, min(4, len(os.sched_getaffinity(0)) // 2))
