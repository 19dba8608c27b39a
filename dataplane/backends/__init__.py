"""The backends by their flannel name. Pure: they neither open nor ask anything."""

from __future__ import annotations

from dataplane.backends.base import Backend, DevicePlan, Plan
from dataplane.errors import BadConfig
from dataplane.model import NetConf, type_host_gw, type_udp, type_vxlan

__all__ = ["Backend", "DevicePlan", "Plan", "from_conf"]


def from_conf(conf: NetConf) -> Backend:
    """Return the backend that the network configuration names, options read; raises `BadConfig`."""
    # Only the backend in use is imported: start must be quick.
    if conf.backend_type == type_udp:
        from dataplane.backends.udp import UdpBackend

        return UdpBackend.from_conf(conf)
    if conf.backend_type == type_vxlan:
        from dataplane.backends.vxlan import VxlanBackend

        return VxlanBackend.from_conf(conf)
    if conf.backend_type == type_host_gw:
        from dataplane.backends.hostgw import HostGwBackend

        return HostGwBackend.from_conf(conf)
    allowed = ", ".join((type_host_gw, type_udp, type_vxlan))
    raise BadConfig(f"unknown backend type: {conf.backend_type!r} (Backend.Type); allowed: {allowed}")
