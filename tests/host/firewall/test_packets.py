"""What the firewall rules do to real packets, by the real nft and iptables."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from dataplane.host.firewall import iptables, nftables
from dataplane.host.firewall.rules import Encap
from dataplane.keepers import firewall
from dataplane.lab.commands import run
from dataplane.lab.topology import Place
from tests.host.firewall.places import (
    Network,
    deadline_s,
    isolated,
    kinds,
    make_firewall,
    overlay4,
    ruleset,
    run_body,
    saved,
    until,
    wanted,
)

_ask_for_ever = """
import os, socket, sys
seen, asked = set(), 0
while not os.path.exists("/run/enough"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.sendto(b"who am I?", (sys.argv[1], 7000))
        seen.add(client.recv(64).decode())
        asked += 1
print(asked, *sorted(seen))
"""
_listen = """
import socket, sys
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.bind(("::", int(sys.argv[1])))
print("ready", flush=True)
while True:
    print(server.recv(64).decode(), flush=True)
"""
_send = """
import socket, struct, sys
words, source, address, port = sys.argv[1:5]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
if source:
    datagram = struct.pack("!4H", 1111, int(port), 8 + len(words), 0) + words.encode()
    ends = socket.inet_aton(source) + socket.inet_aton(address)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    raw.sendto(struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0) + ends + datagram, (address, 0))
else:
    socket.socket(family, socket.SOCK_DGRAM).sendto(words.encode(), (address, int(port)))
"""


@isolated(*kinds)
async def test_what_the_rules_do_to_packets(kind: str) -> None:
    net = Network()
    assert net.source_seen(net.pod, "192.0.2.9") == "10.244.7.2"
    wall, _ = make_firewall(kind)
    await wall.open()
    assert net.source_seen(net.pod, "192.0.2.9") == "192.0.2.1"
    assert net.source_seen(net.pod, "10.244.8.2") == "10.244.7.2"
    assert net.source_seen(net.peer, "10.244.7.2") == "10.244.8.2"
    assert net.source_seen(net.outside, "10.244.7.2") == "192.0.2.9"
    assert net.source_seen(net.outside, "10.244.8.2") == "10.244.7.0"
    # kube-proxy's bit beside another one.
    run(
        None,
        *("nft", "-f", "-"),
        given="table ip marks {\n chain pre {\n type filter hook prerouting priority mangle;\n"
        " meta mark set 0x00004001\n }\n}\n",
    )
    assert net.source_seen(net.pod, "192.0.2.9") == "10.244.7.2"


@isolated("iptables-nft", "iptables-legacy")
async def test_overlay_packets_pass_a_forward_policy_of_drop(kind: str) -> None:
    net = Network()
    run(None, "iptables", "-P", "FORWARD", "DROP")
    assert net.source_seen(net.pod, "10.244.8.2", limit_s=0.3) == "nothing came back"
    wall, _ = make_firewall(kind, masquerade=False)
    await wall.open()
    assert net.source_seen(net.pod, "10.244.8.2") == "10.244.7.2"
    assert net.source_seen(net.peer, "10.244.7.2") == "10.244.8.2"
    assert "FLANNEL-POSTRTG" not in ruleset(kind)


@isolated(*kinds)
async def test_no_packet_slips_through_while_the_rules_are_put_in_again(kind: str) -> None:
    Network()
    made = nftables.Nftables(wanted(overlay4)) if kind == "nftables" else iptables.Iptables(wanted(overlay4))
    await made.apply()
    asking = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", "pod", sys.executable, "-c", _ask_for_ever, "192.0.2.9"), stdout=subprocess.PIPE
    )
    for _ in range(20):
        await made.apply()
    run(None, "touch", "/run/enough")
    out, _ = await asyncio.wait_for(asking.communicate(), deadline_s)
    asked, *seen = out.decode().split()
    assert seen == ["192.0.2.1"]
    assert int(asked) > 20


@isolated(*kinds)
async def test_pods_cannot_send_to_encapsulation_ports(kind: str) -> None:
    net = Network()
    net.add_ipv6()
    net.peer.batch("address add 10.244.8.1/32 dev eth0", "address add 10.244.8.0/32 dev eth0")
    hears: dict[tuple[Place | None, int], asyncio.StreamReader] = {}
    for place in (None, net.outside, net.peer):
        for port in (8285, 8472, 9999):
            words = () if place is None else ("ip", "netns", "exec", place.name)
            process = await asyncio.create_subprocess_exec(
                *words, sys.executable, "-c", _listen, str(port), stdout=subprocess.PIPE
            )
            assert process.stdout is not None and await process.stdout.readline() == b"ready\n"
            hears[place, port] = process.stdout

    def send(frm: Place | None, address: str, port: int, words: str, source: str = "") -> None:
        run(None if frm is None else frm.name, sys.executable, "-c", _send, words, source, address, str(port))

    async def heard(place: Place | None, port: int) -> str:
        return (await asyncio.wait_for(hears[place, port].readline(), deadline_s)).decode().strip()

    run(None, "iptables", "-I", "FORWARD", "-j", "ACCEPT")
    wall, state = make_firewall(
        kind, masquerade=False, forward=False, ipv6=True, encap=Encap(9999, "eth0"), resync_s=0.3
    )
    await wall.open()
    assert state.notes == {}
    whole = ruleset(kind)
    expected = 0
    for port in (8285, 8472, 9999):
        for address in ("192.0.2.9", "fd01::9", "192.0.2.1", "fd01::1", "10.244.7.0", "10.244.7.1", "fd00:10:0:7::1"):
            send(net.pod, address, port, "forged")
            expected += 1
        send(net.pod, "192.0.2.9", port, "forged", source="198.51.100.7")
        for address in ("10.244.8.0", "10.244.8.1", "fd00:10:0:8::1"):
            send(net.pod, address, port, "forged")
        send(net.peer, "10.244.7.0", port, "forged")
        expected += 5
        # What must pass comes behind, on the same way: whatever had slipped through would be heard first.
        for address in ("10.244.8.2", "fd00:10:0:8::2"):
            send(net.pod, address, port, "between pods")
            assert await heard(net.peer, port) == "between pods"
        send(None, "192.0.2.9", port, "the host's")
        assert await heard(net.outside, port) == "the host's"
        for address in ("192.0.2.1", "fd01::1"):
            send(net.outside, address, port, "the underlay's")
            assert await heard(None, port) == "the underlay's"
    await wall.count()
    assert state.drops()["forged_encap"] == expected
    assert await wall.ensure() is False  # counters are no change
    keeping = asyncio.create_task(wall.run())
    if kind == "nftables":
        run(None, "nft", "flush", "chain", "ip", "flannel-ipv4", "encap_forward")
    else:
        run(None, "iptables", "-t", "mangle", "-F", "FORWARD")
    await until(lambda: state.events["repairs"] == 1, deadline_s)
    keeping.cancel()
    await asyncio.wait([keeping])
    if kind != "nftables":
        assert ruleset(kind) == whole
    send(net.pod, "192.0.2.9", 8472, "forged")
    send(None, "192.0.2.9", 8472, "the host's")
    assert await heard(net.outside, 8472) == "the host's"
    async with asyncio.timeout(deadline_s):
        while state.drops()["forged_encap"] != expected + 1:
            await wall.count()
            await asyncio.sleep(0.05)
    await firewall.remove()
    assert "ENCAP" not in "".join(saved(version, "mangle")[0] for version in (4, 6) if saved(version, "mangle"))
    assert "encap" not in run(None, "nft", "list", "ruleset").stdout


if __name__ == "__main__":
    run_body()
