"""What is known of the node that is examined: from the daemon while it answers, else from its configuration and the host.

What must stay true: nothing here fails because something is missing on the node; what is not known is left empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from dataplane.backends import from_conf
from dataplane.errors import DataplaneError
from dataplane.flannel import net_conf, subnet_env
from dataplane.flannel.subnet_env import SubnetEnv
from dataplane.host.choosing import choose
from dataplane.host.firewall.rules import default_ports
from dataplane.host.interface import InterfaceChoice
from dataplane.host.links import Address, Link
from dataplane.host.netlink import Host
from dataplane.model import IPAddress, IPNetwork, NetConf, type_host_gw

bridge = "cni0"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line and the environment say.

    Attributes:
        document: the daemon's status; None where none answers, and `silence` says why.
        net_config, subnet_file: where the daemon would have them.
        choice: how it would choose the external interface.
    """

    document: Mapping[str, Any] | None
    silence: str
    run_dir: Path
    net_config: Path
    subnet_file: Path
    choice: InterfaceChoice


@dataclass(frozen=True, slots=True)
class Node:
    """The node.

    Attributes:
        document: the daemon's status, None without one.
        conf: network configuration; None where it is in no file, or cannot be used (`conf_problem` says why).
        kind: backend, "" while not known.
        ports: UDP ports of the encapsulation, ours or those that may become ours.
        networks, subnets: the overlay and our share.
        peers: underlay addresses of the other nodes.
        external: name of the external interface, "" where there is none (`external_problem` says why).
        own: addresses of the external interface.
        devices: overlay devices by name, each with its MTU as the daemon set it.
        env: what subnet.env says; None: there is none.
        links, addresses: of the network namespace.
    """

    asked: Asked
    document: Mapping[str, Any] | None = None
    conf: NetConf | None = None
    conf_problem: str = ""
    kind: str = ""
    ports: tuple[int, ...] = ()
    networks: tuple[IPNetwork, ...] = ()
    subnets: tuple[IPNetwork, ...] = ()
    peers: frozenset[IPAddress] = frozenset()
    external: str = ""
    external_problem: str = ""
    own: tuple[IPAddress, ...] = ()
    devices: Mapping[str, int] | None = None
    env: SubnetEnv | None = None
    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()

    @property
    def versions(self) -> tuple[int, ...]:
        """IP versions of the overlay; 4 while it is not known."""
        return tuple(sorted({network.version for network in self.networks})) or (4,)

    def link(self, name: str) -> Link | None:
        """Return the link of this name, None without."""
        return next((link for link in self.links if link.name == name), None)

    def network(self, version: int) -> IPNetwork | None:
        """Return the overlay of an IP version."""
        return next((network for network in self.networks if network.version == version), None)

    def subnet(self, version: int) -> IPNetwork | None:
        """Return our share of it."""
        return next((subnet for subnet in self.subnets if subnet.version == version), None)

    @property
    def overlay_devices(self) -> tuple[Link, ...]:
        """The daemon's devices that are there; none with host-gw, whose packets leave by the external interface."""
        names = (self.devices or {}).keys() - {self.external}
        return tuple(link for link in self.links if link.name in names)


async def look(asked: Asked, host: Host) -> Node:
    """Gather it."""
    document = asked.document or {}
    conf, conf_problem = _read_conf(asked.net_config)
    env = _read_env(Path(document.get("subnet_file") or asked.subnet_file))
    networks = tuple(ip_network(text) for text in document.get("network") or ()) or _conf_networks(conf)
    links, addresses = await host.links(), await host.addresses()
    external, problem = (document.get("interface") or {}).get("name", ""), ""
    if not external:
        versions = {network.version for network in networks} or {4}
        try:
            external = (await choose(host, asked.choice, 4 in versions, 6 in versions)).name
        except DataplaneError as error:
            problem = str(error)
    index = next((link.index for link in links if link.name == external), None)
    lease = document.get("lease") or {}
    leased = (lease.get("subnet"), lease.get("ipv6_subnet"))
    kind, ports = _backend(document, conf)
    return Node(
        asked=asked,
        document=asked.document,
        conf=conf,
        conf_problem=conf_problem,
        kind=kind,
        ports=ports,
        networks=networks,
        subnets=tuple(ip_network(text) for text in leased if text),
        peers=frozenset(ip_address(peer["public_ip"]) for peer in document.get("peers", ())),
        external=external,
        external_problem=problem,
        own=tuple(address.interface.ip for address in addresses if address.index == index),
        devices={device["name"]: device["mtu"] for device in document.get("devices", ())},
        env=env,
        links=tuple(links),
        addresses=tuple(addresses),
    )


def _read_conf(path: Path) -> tuple[NetConf | None, str]:
    """Return the configuration, None where it cannot be used, and what is wrong with it."""
    try:
        read = net_conf.parse(path.read_bytes())
        from_conf(read)
    except FileNotFoundError:
        return None, ""  # it may be in etcd
    except OSError as error:
        return None, f"{path}: {error.strerror}"
    except DataplaneError as error:
        return None, f"{path}: {error}"
    try:
        return net_conf.validate(read), ""
    except DataplaneError as error:
        problem = f"{path}: {error}"
    try:
        # Kubernetes gives the subnets out, so that their length and range do not count there.
        return net_conf.networks_only(read), f"{problem} (it does not count with --kube-subnet-mgr)"
    except DataplaneError:
        return None, problem


def _read_env(path: Path) -> SubnetEnv | None:
    try:
        return subnet_env.parse(path.read_text(errors="replace"))
    except OSError:
        return None


def _conf_networks(conf: NetConf | None) -> tuple[IPNetwork, ...]:
    if conf is None:
        return ()
    pairs = ((conf.enable_ipv4, conf.network), (conf.enable_ipv6, conf.ipv6_network))
    return tuple(network for enabled, network in pairs if enabled and network is not None)


def _backend(document: Mapping[str, Any], conf: NetConf | None) -> tuple[str, tuple[int, ...]]:
    """Return the backend and the ports; both of flannel's where nothing tells which it will be."""
    kind = document.get("backend") or (conf.backend_type if conf else "")
    used = sorted({device["port"] for device in document.get("devices", ()) if device["port"]})
    if used or kind == type_host_gw:
        return kind, tuple(used)
    port = from_conf(conf).encap_port if conf is not None else None
    return kind, (port,) if port else tuple(sorted(default_ports, reverse=True))
