"""host-gw: routes and no device."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from dataplane.backends import DevicePlan, from_conf
from dataplane.errors import BadConfig, BadLease
from dataplane.model import Lease, LeaseAttrs, Peer
from tests.backends.cases import address, address6, conf_of, devices_of, own_lease


class TestDevices:
    def test_host_gw_has_routes_and_no_device(self) -> None:
        conf = conf_of("host-gw", dual=True)
        backend = from_conf(conf)
        four, six = devices_of(conf)
        assert backend.device_names == ()
        assert backend.mtu(1500) == 1500
        assert not isinstance(four, DevicePlan)
        assert (four.name, four.underlay_address, four.subnets) == ("host-gw", address, (IPv4Network("10.5.34.0/24"),))
        assert (six.name, six.underlay_address) == ("host-gw-v6", address6)
        assert own_lease(backend, conf).attrs == LeaseAttrs(address, address6, "host-gw")

    def test_host_gw_behind_a_nat_is_refused(self) -> None:
        conf = conf_of("host-gw")
        backend = from_conf(conf)
        own = Lease(IPv4Network("10.5.34.0/24"), None, backend.lease_attrs(IPv4Address("198.51.100.1"), None, {}))
        with pytest.raises(BadConfig, match=r"public address 198\.51\.100\.1 .* NAT"):
            backend.plans(conf, own, interface="eth0", interface_mtu=1500, address=address, address6=None)

    def test_host_gw_takes_only_its_own_kind_of_lease(self) -> None:
        conf = conf_of("host-gw")
        backend, (plan,) = from_conf(conf), devices_of(conf)
        subnet, public = IPv4Network("10.5.2.0/24"), IPv4Address("192.168.64.9")
        assert backend.peers(conf, Lease(subnet, None, LeaseAttrs(public, None, "host-gw")), plan) == (
            Peer(subnet, public),
        )
        for other in ("", "vxlan", "Host-GW"):
            with pytest.raises(BadLease, match="BackendType"):
                backend.peers(conf, Lease(subnet, None, LeaseAttrs(public, None, other)), plan)
