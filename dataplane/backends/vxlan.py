"""The vxlan backend: Ethernet frames in VXLAN (RFC 7348), one device per family, as flannel's pkg/backend/vxlan.

IPv4 travels on flannel.<VNI> over IPv4, IPv6 on flannel-v6.<VNI> over IPv6, same VNI and port. What must stay true:
names, MTU and lease data are flannel's, so that a real flanneld can be a peer, and can take over from us.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, ClassVar, Literal, Self

from dataplane.backends.base import Backend, DevicePlan, Plan, Underlay, host_interfaces
from dataplane.backends.options import (
    check_mtu,
    enabled_versions,
    largest_mtu,
    largest_port,
    read_boolean,
    read_integer,
)
from dataplane.backends.peers import peer_next_hop, peer_subnet, shown_type
from dataplane.errors import BadConfig, BadLease, OursClaimed
from dataplane.model import Lease, LeaseAttrs, NetConf, Peer, VxlanLink, type_vxlan

default_vni = 1
default_port = 8472  # the kernel's own default, older than IANA's 4789
largest_vni = 2**24 - 1
overhead_bytes: Mapping[int, int] = {4: 14 + 8 + 8 + 20, 6: 14 + 8 + 8 + 40}  # inner Ethernet, VXLAN, UDP, outer IP
_longest_name = 15  # IFNAMSIZ - 1 (linux/if.h)
_name_prefix: Mapping[int, str] = {4: "flannel.", 6: "flannel-v6."}
# The forms that Go's net.ParseMAC takes, six bytes long: aa:bb:…, aa-bb-…, aabb.ccdd.eeff
_mac_forms = re.compile(
    r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}|[0-9a-f]{2}(?:-[0-9a-f]{2}){5}|[0-9a-f]{4}(?:\.[0-9a-f]{4}){2}", re.IGNORECASE
)


def random_mac(six_bytes: bytes) -> bytes:
    """Turn six random bytes into a unicast, locally administered VTEP MAC (flannel pkg/mac)."""
    return bytes([six_bytes[0] & 0xFE | 0x02]) + six_bytes[1:6]


def format_mac(mac: bytes) -> str:
    """Six bytes as lower-case "aa:bb:cc:dd:ee:ff"."""
    return mac.hex(":")


def parse_mac(text: str) -> bytes | None:
    """The inverse of `format_mac`, taking also Go's other spellings; None if this is no 6-byte MAC."""
    if not _mac_forms.fullmatch(text):
        return None
    return bytes.fromhex(re.sub(r"[:.-]", "", text))


def published_mac(key: str, field: str, data: Any) -> bytes:
    """The checked VTEP MAC out of a lease's BackendData or BackendV6Data (`field`).

    Keys are matched in any case, as Go does. The VNI next to it may be missing (old flannel) or differ from ours:
    flannel never compares it. It must be a number, else a flanneld peer could not read the lease either.

    Raises:
        BadLease: missing, of a wrong type, malformed, zero or multicast.
    """
    allowed = 'allowed: {"VNI": number, "VtepMAC": "aa:bb:cc:dd:ee:ff"}'
    if not isinstance(data, Mapping):
        raise BadLease(key, f"{field} is {'missing' if data is None else reprlib.repr(data)}; {allowed}")
    values = {name.lower(): value for name, value in data.items() if isinstance(name, str)}
    vni, text = values.get("vni"), values.get("vtepmac")
    if vni is not None and (not isinstance(vni, int) or isinstance(vni, bool)):
        raise BadLease(key, f"{field}.VNI is {reprlib.repr(vni)}; {allowed}")
    if not isinstance(text, str):
        raise BadLease(key, f"{field}.VtepMAC is {'missing' if text is None else reprlib.repr(text)}; {allowed}")
    mac = parse_mac(text)
    if mac is None:
        raise BadLease(key, f"{field}.VtepMAC {reprlib.repr(text)} is no MAC address; {allowed}")
    if mac[0] & 1 or not any(mac):
        raise BadLease(key, f"{field}.VtepMAC {text} is multicast or zero; allowed: the MAC of one node")
    return mac


@dataclass(frozen=True, slots=True)
class VxlanBackend(Backend):
    """Options VNI, Port, MTU, DirectRouting, Learning and GBP; `underlay_mtu` 0 means the external interface's.

    VNI 0 is allowed: flannel takes it, and so does the kernel's vxlan device. An explicit "MTU": 0, which in flannel
    ends as FLANNEL_MTU=-50, means the default here. `learning` and `group_policy` are for the kernel's device: our own
    data plane never learns addresses from packets, and carries no group policy.
    """

    kind: ClassVar[str] = type_vxlan
    vni: int
    port: int
    underlay_mtu: int
    direct_routing: bool
    learning: bool
    group_policy: bool
    families: tuple[Literal[4, 6], ...]

    @classmethod
    def from_conf(cls, conf: NetConf) -> Self:
        families = enabled_versions(conf)
        vni = read_integer(conf, "VNI", default_vni, 0, largest_vni)
        for family in families:
            name = f"{_name_prefix[family]}{vni}"
            if len(name) > _longest_name:
                highest = 10 ** (_longest_name - len(_name_prefix[family])) - 1
                raise BadConfig(
                    f"Backend.VNI: {vni}; the device name {name} is longer than Linux allows ({_longest_name}); "
                    f"allowed with IPv{family}: 0 to {highest}"
                )
        port = read_integer(conf, "Port", 0, 0, largest_port) or default_port
        underlay_mtu = read_integer(conf, "MTU", 0, 0, largest_mtu)
        return cls(
            vni,
            port,
            underlay_mtu,
            direct_routing=read_boolean(conf, "DirectRouting"),
            learning=read_boolean(conf, "Learning"),
            group_policy=read_boolean(conf, "GBP"),
            families=families,
        )

    @property
    def underlay_families(self) -> tuple[Literal[4, 6], ...]:
        return self.families

    @property
    def mac_families(self) -> tuple[Literal[4, 6], ...]:
        return self.families

    @property
    def device_names(self) -> tuple[str, ...]:
        return tuple(f"{_name_prefix[family]}{self.vni}" for family in self.families)

    @property
    def encap_port(self) -> int:
        """UDP port, ours and the peers'."""
        return self.port

    def mtu(self, interface_mtu: int) -> int:
        """Configured or interface MTU minus 50, with IPv6 too: flannel never lowers FLANNEL_MTU for it."""
        return check_mtu("subnet.env", (self.underlay_mtu or interface_mtu) - overhead_bytes[4], 6 in self.families)

    def mtu_fault(self, interface_mtu: int) -> str:
        """Whether what pods may send does not fit the underlay."""
        if self.underlay_mtu <= interface_mtu:
            return ""
        return (
            f"Backend.MTU is {self.underlay_mtu}, and the external interface's MTU is {interface_mtu}: "
            "FLANNEL_MTU promises pods more than the underlay carries; leave Backend.MTU out, or enlarge the interface's"
        )

    def lease_attrs(
        self, public_ip: IPv4Address | None, public_ipv6: IPv6Address | None, vtep_macs: Mapping[int, bytes]
    ) -> LeaseAttrs:
        """Each enabled family's address and data. flannel stores the VNI in 16 bits, and cannot read more."""

        def data(family: int) -> dict[str, Any]:
            return {"VNI": self.vni & 0xFFFF, "VtepMAC": format_mac(vtep_macs[family])}

        with4, with6 = 4 in self.families, 6 in self.families
        return LeaseAttrs(
            public_ip=public_ip if with4 else None,
            public_ipv6=public_ipv6 if with6 else None,
            backend_type=type_vxlan,
            backend_data=data(4) if with4 else None,
            backend_v6_data=data(6) if with6 else None,
        )

    def macs_of(self, own: Lease) -> dict[int, bytes]:
        return {family: _mac_in(own, family) for family in self.families}

    def _plan(self, conf: NetConf, own: Lease, underlay: Underlay, family: Literal[4, 6]) -> DevicePlan:
        link = self._link(underlay, family)
        return DevicePlan.over(
            underlay,
            family,
            conf,
            own,
            (family,),
            addresses=host_interfaces(conf, own, (family,)),
            name=link.name,
            mtu=link.mtu,
            port=self.port,
            vni=self.vni,
            wire="vxlan",
            direct_routing=self.direct_routing,
            vtep_mac=_mac_in(own, family),
            link=link,
        )

    def links(
        self, interface: str, interface_mtu: int, address: IPv4Address | None, address6: IPv6Address | None
    ) -> dict[Literal[4, 6], VxlanLink]:
        """The kernel's devices that would do our work, by underlay family; the kernel must have them before the lease.

        Raises:
            BadConfig: the MTU leaves no room, or an enabled family has no underlay address.
        """
        underlay = Underlay(interface, interface_mtu, address, address6)
        return {family: self._link(underlay, family) for family in self.families}

    def _link(self, underlay: Underlay, family: Literal[4, 6]) -> VxlanLink:
        """It sends from the interface's own address: the one that peers are told may be a NAT's, which no packet can leave
        from. A configured MTU above the interface's is cut to that, as the kernel cuts a vxlan device's."""
        name = f"{_name_prefix[family]}{self.vni}"
        local = underlay.local(family)
        underlay_mtu = min(self.underlay_mtu or underlay.mtu, underlay.mtu)
        mtu = check_mtu(f"device {name}", underlay_mtu - overhead_bytes[family], family == 6)
        return VxlanLink(name, self.vni, self.port, local, underlay.interface, mtu, self.learning, self.group_policy)

    def peers(self, conf: NetConf, lease: Lease, plan: Plan) -> tuple[Peer, ...]:
        """A lease with another VNI than ours is accepted, as flannel never compares it; `mismatch` names it."""
        subnet = peer_subnet(conf, lease, plan.underlay_family, plan)
        if subnet is None:
            return ()
        if lease.attrs.backend_type != type_vxlan:
            raise BadLease(lease.key, f"BackendType is {shown_type(lease)}; allowed: {type_vxlan!r}")
        mac = _mac_in(lease, plan.underlay_family)
        if mac == plan.vtep_mac:
            raise OursClaimed(lease.key, f"VtepMAC {format_mac(mac)} is our own; allowed: the MAC of another node")
        return (Peer(subnet, peer_next_hop(lease, plan), mac),)

    def mismatch(self, lease: Lease, plan: Plan) -> str:
        """Another VNI; of ours only the 16 bits that a lease has room for are compared."""
        attrs = lease.attrs
        field, data = (
            ("BackendData", attrs.backend_data)
            if plan.underlay_family == 4
            else ("BackendV6Data", attrs.backend_v6_data)
        )
        vni = next((value for name, value in data.items() if name.lower() == "vni"), None) if data else None
        if vni is None or vni & 0xFFFF == self.vni & 0xFFFF:
            return ""
        return f"its {field}.VNI is {reprlib.repr(vni)} and ours {self.vni}: neither node takes what the other sends"


def _mac_in(lease: Lease, family: int) -> bytes:
    if family == 4:
        return published_mac(lease.key, "BackendData", lease.attrs.backend_data)
    return published_mac(lease.key, "BackendV6Data", lease.attrs.backend_v6_data)
