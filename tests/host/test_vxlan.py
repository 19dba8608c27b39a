"""The kernel's vxlan device, and others that are in its way."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from dataplane.errors import HostFault
from dataplane.host.netlink import Host
from dataplane.host.vxlan import ensure_device, supported
from dataplane.model import VxlanLink
from tests.host.kernel import ip, isolated, run_body, veth


@isolated
async def test_a_vxlan_device_that_has_our_vni_and_port_is_named_and_one_of_the_other_family_is_not_in_the_way(
    host: Host,
) -> None:
    mac = bytes.fromhex("020000000001")
    wanted = VxlanLink("flannel.1", 1, 8472, IPv4Address("192.0.2.1"), "eth0", 1450)
    veth("192.0.2.1/24", "2001:db8::1/64")
    ip("link add theirs type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472")
    with pytest.raises(HostFault, match="the device theirs has its VNI 1 and port 8472"):
        await ensure_device(host, wanted, mac)
    ip("link delete theirs")
    ip("link add theirs type vxlan id 1 local 2001:db8::1 dev eth0 dstport 8472")
    _, made = await ensure_device(host, wanted, mac)
    assert made == mac and await supported(host) == ""


if __name__ == "__main__":
    run_body()
