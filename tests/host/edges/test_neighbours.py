"""What is said on the link about our MAC, on the real kernel, and that another machine's kernel takes it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA
from scapy.layers.l2 import ARP

from dataplane.errors import HostError
from dataplane.host.edges.neighbours import advertisement, gratuitous_arp, tell_neighbours
from dataplane.host.netlink import Host
from dataplane.host.sysctl import write_sysctl
from dataplane.lab.commands import wait_for
from tests.host.kernel import ip, isolated, run_body, veth

four, six = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
mac = bytes.fromhex("020000000001")


def test_the_messages_are_as_the_standards_say() -> None:
    arp = ARP(gratuitous_arp(four, mac))
    assert (arp.hwtype, arp.ptype, arp.hwlen, arp.plen, arp.op) == (1, 0x0800, 6, 4, 1)
    assert (arp.hwsrc, arp.psrc, arp.hwdst, arp.pdst) == (mac.hex(":"), str(four), "00:00:00:00:00:00", str(four))
    for router in (False, True):
        said = ICMPv6ND_NA(advertisement(six, mac, router=router))
        assert (said.type, said.code, said.R, said.S, said.O, said.tgt) == (136, 0, int(router), 0, 1, str(six))
        assert (said.payload.type, said.payload.len, said.payload.lladdr) == (2, 1, mac.hex(":"))


@isolated
async def test_a_neighbour_takes_the_new_mac(host: Host) -> None:
    veth(f"{four}/24", f"{six}/64")
    write_sysctl("net/ipv6/conf/eth0/forwarding", 1)
    with _elsewhere() as peer:
        ip(f"link set eth0-peer netns {peer.pid}")
        peer.batch("link set eth0-peer up", "address add 192.0.2.2/24 dev eth0-peer")
        peer.batch("address add 2001:db8::2/64 dev eth0-peer nodad")
        for address in (four, six):
            peer.batch(f"neigh replace {address} lladdr 02:00:00:00:00:99 dev eth0-peer nud stale")
        tell_neighbours("eth0", (four, six, None))
        own = _mac()
        for address in (four, six):
            wait_for(lambda a=address: peer.mac_of(str(a)) == own, 5, f"{address} to be at {own}")  # type: ignore[misc]


@isolated
async def test_what_cannot_be_said_is_an_error_and_a_tunnel_has_no_neighbours(host: Host) -> None:
    tell_neighbours("lo", (four, six))
    for interface, addresses in (("absent", (four,)), ("eth0", (IPv6Address("2001:db8::77"),))):
        if interface == "eth0":
            veth(f"{four}/24")
        with pytest.raises(HostError, match=f"cannot tell who is on the link of {interface}"):
            tell_neighbours(interface, addresses)


class Peer:
    """Another network namespace; a process keeps it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def batch(self, *lines: str) -> None:
        for line in lines:
            self._run("ip", *line.split())

    def mac_of(self, address: str) -> str:
        shown = json.loads(self._run("ip", "-j", "neigh", "show", address, "dev", "eth0-peer"))
        return str(shown[0].get("lladdr")) if shown else ""

    def _run(self, *words: str) -> str:
        command = ["nsenter", "-t", str(self.pid), "-n", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def _elsewhere() -> Iterator[Peer]:
    process = subprocess.Popen(["unshare", "-n", "sleep", "200"])
    here = os.readlink("/proc/self/ns/net")
    try:
        wait_for(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != here, 20, "the other namespace")
        yield Peer(process.pid)
    finally:
        process.kill()
        process.wait()


def _mac() -> str:
    (link,) = json.loads(subprocess.check_output(["ip", "-j", "link", "show", "eth0"]))
    return str(link["address"])


if __name__ == "__main__":
    run_body()
