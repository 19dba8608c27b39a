"""The backends by their flannel name. Pure: they neither open nor ask anything."""

from __future__ import annotations

from dataplane.backends.base import Backend, DevicePlan
from dataplane.backends.udp import UdpBackend
from dataplane.backends.vxlan import VxlanBackend
from dataplane.errors import BadConfig
from dataplane.model import NetConf, type_udp, type_vxlan

__all__ = ["Backend", "DevicePlan", "UdpBackend", "VxlanBackend", "from_conf"]

_by_type: dict[str, type[Backend]] = {type_udp: UdpBackend, type_vxlan: VxlanBackend}


def from_conf(conf: NetConf) -> Backend:
    """Return the backend that the network configuration names, options read; raises `BadConfig`."""
    backend = _by_type.get(conf.backend_type)
    if backend is None:
        allowed = ", ".join(sorted(_by_type))
        raise BadConfig(f"unknown backend type: {conf.backend_type!r} (Backend.Type); allowed: {allowed}")
    return backend.from_conf(conf)
