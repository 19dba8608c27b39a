"""The status document as a person reads it: health first, then who we are, then peers and drops."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

wide = 160
most_problems = 20  # what keeps the node from being ready comes first; refused leases may be thousands
drop_words = {
    "send_malformed": "what pods sent is no whole IP packet",
    "send_no_route": "no node holds the destination",
    "send_multicast": "multicast or link-local from a pod: not carried",
    "send_ttl": "TTL used up on the way out",
    "send_too_big": "larger than the MTU and not to be fragmented",
    "send_gso": "large packet of a kind that cannot be cut",
    "send_error": "the network refused the datagram",
    "send_full": "the sending socket's buffer is full",
    "receive_unknown_sender": "sender holds no lease",
    "send_neighbour": "the next hop to the peer does not answer (ARP, neighbour discovery)",
    "receive_socket": "our socket's buffer was full, or the outer checksum wrong",
    "receive_short": "too short for its headers",
    "receive_truncated": "longer than any datagram we take",
    "receive_vxlan_flags": "wrong VXLAN flags",
    "receive_vni": "another overlay's VNI",
    "receive_inner_mac": "inner MAC is not ours, or not the sender's",
    "receive_inner_type": "neither IPv4 nor IPv6 inside",
    "receive_malformed": "inner IP header or length is wrong",
    "receive_inner_source": "inner source is not the sender's to use",
    "receive_inner_destination": "inner destination is not on this node",
    "receive_multicast": "multicast or broadcast inside",
    "receive_ra": "router advertisement or redirect inside",
    "receive_checksum": "wrong inner checksum",
    "receive_ecn": "congestion mark that the packet cannot carry",
    "receive_ttl": "TTL used up on the way in",
    "tun_error": "the TUN device refused the packet",
    "tun_full": "the TUN device's queue is full",
    "tun_queue": "pods sent faster than the workers read",
    "device_send": "the kernel's vxlan device had no way for it (large packets count once)",
    "device_receive": "the kernel's vxlan device refused it (large packets count once)",
    "forged_encap": "encapsulation that this node does not send itself: a pod forged it",
    "icmp_limited": "ICMP error not made, too many already",
}
silent_words = (
    "  Nothing that was let in comes from a silent peer: its daemon is down, something on the way drops the port, or what it\n"
    "  sends is refused here (dropped, below: receive_...). `dataplane ping` asks it; its own status tells what arrives there."
)
host_drop_words = {
    "receive_udp": "datagrams that no socket got: wrong checksum or length, or another program's buffer full",
    "receive_fragments": "pieces of which the rest did not come",
    "send_queue": "the network device's queue was full, or another program's send buffer",
    "interface_send": "the external interface could not send it",
}


def show(document: dict[str, Any], now: float) -> None:
    """Print the document to stdout."""
    # emoji: rich would turn the :ab: of a MAC address into a picture.
    console = Console(highlight=False, emoji=False)
    if console.is_terminal:
        _show(document, now, console)
        return
    # Nothing says how wide a file or a pipe is; what is cut off there is lost.
    text = StringIO()
    _show(document, now, Console(file=text, highlight=False, emoji=False, width=wide))
    print("\n".join(line.rstrip() for line in text.getvalue().splitlines()))


def _show(document: dict[str, Any], now: float, console: Console) -> None:
    ready = "[bold green]ready[/]" if document["ready"] else "[bold red]not ready[/]"
    console.print(f"dataplane is {ready}")
    problems = document["problems"]
    for problem in problems[:most_problems]:
        console.print(f"  [red]![/] {escape(problem)}")
    if len(problems) > most_problems:
        console.print(f"  [red]![/] and {len(problems) - most_problems} more; --json shows all")
    console.print(_facts(document, now))
    if document["peers"]:
        console.print(_peers(document["peers"]))
    else:
        console.print("no peers")
    unreachable = [peer for peer in document["peers"] if peer.get("unreachable")]
    if unreachable:
        console.print(_unreachable(unreachable, _own_addresses(document), now))
    silent = [peer for peer in document["peers"] if peer.get("silent")]
    if silent:
        console.print(_silent(silent, now))
        console.print(silent_words)
    drops = {reason: count for reason, count in document["drops"].items() if count}
    if drops:
        console.print(_drops(drops, "dropped", drop_words))
    drops = {reason: count for reason, count in document.get("host_drops", {}).items() if count}
    if drops:
        console.print(_drops(drops, "lost by the host", host_drop_words))


def _facts(document: dict[str, Any], now: float) -> Table:
    table = Table.grid(padding=(0, 2))
    interface, datapath, lease = document["interface"], document["datapath"], document["lease"]
    if interface:
        text = f"{interface['name']} {interface['address']} mtu {interface['mtu']}: {interface['reason']}"
        table.add_row("interface", escape(text))
    table.add_row("backend", document["backend"] or "not known yet")
    if datapath:
        table.add_row("datapath", escape(f"{datapath['kind']}: {datapath['reason']}"))
    if lease:
        subnets = " ".join(subnet for subnet in (lease["subnet"], lease["ipv6_subnet"]) if subnet)
        address = " ".join(ip for ip in (lease["public_ip"], lease["public_ipv6"]) if ip)
        mac = f" VTEP {lease['vtep_mac']}" if lease["vtep_mac"] else ""
        table.add_row("lease", f"{subnets} at {address}{mac}, {time_left(lease['expires'], now)}")
    running = f"for {lasted(now - document['started'])}"
    if document.get("forwarding_since") is not None:
        running += f", packets are forwarded for {lasted(now - document['forwarding_since'])}"
    table.add_row("daemon", running)
    for device in document["devices"]:
        text = f"{device['name']} mtu {device['mtu']}"
        if device["port"]:
            text += f" port {device['port']}"
        if device["workers"]:
            offloads = ", ".join(device["offloads"]) or "none"
            text += f", {device['workers_alive']} of {device['workers']} workers; {offloads}"
        if device.get("admission"):
            text += f", senders checked: {device['admission']}"
        table.add_row("device", text)
    return table


def lasted(seconds: float) -> str:
    """Say how long something has lasted, in its two largest units."""
    left = max(0, int(seconds))
    days, hours, minutes = left // 86400, left % 86400 // 3600, left % 3600 // 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left % 60} s" if minutes else f"{left} s"


def time_left(expires: float | None, now: float) -> str:
    """Say how long a lease lasts; None is for ever."""
    if expires is None:
        return "has no end"
    left = int(expires - now)
    if left <= 0:
        return "expired"
    hours, minutes = left // 3600, left % 3600 // 60
    return f"{hours} h {minutes} min left" if left >= 60 else f"{left} s left"


def _peers(peers: list[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE)
    for name in ("peer", "public ip", "VTEP MAC"):
        table.add_column(name, no_wrap=True)
    for name in ("sent", "bytes", "received", "bytes"):
        table.add_column(name, justify="right")
    for peer in peers:
        counts = (peer["tx_packets"], peer["tx_bytes"], peer["rx_packets"], peer["rx_bytes"])
        address = f"{peer['public_ip']} direct" if peer.get("direct") else peer["public_ip"]
        # The kernel counts by no peer.
        shown = ("-" if count is None else f"{count:,}" for count in counts)
        table.add_row(peer["subnet"], address, peer["vtep_mac"] or "-", *shown)
    return table


def _own_addresses(document: dict[str, Any]) -> set[str]:
    interface, lease = document["interface"] or {}, document["lease"] or {}
    found = (interface.get("address"), lease.get("public_ip"), lease.get("public_ipv6"))
    return {address for address in found if address}


def _unreachable(peers: list[dict[str, Any]], own: set[str], now: float) -> Table:
    table = Table("unreachable", "ICMP errors", "last", "meaning", box=SIMPLE)
    for peer in peers:
        told = peer["unreachable"]
        text, said_by = told["text"], told["said_by"]
        if said_by != peer["public_ip"]:
            text += f"; says {'this node' if said_by in own else said_by}"
        table.add_row(
            peer["subnet"], f"{peer['icmp_unreachables']:,}", f"{max(0, int(now - told['last']))} s ago", text
        )
    return table


def _silent(peers: list[dict[str, Any]], now: float) -> Table:
    table = Table("silent", "sent to for", "packets", "last heard", box=SIMPLE)
    for peer in peers[:most_problems]:
        told, heard = peer["silent"], peer["heard"]
        last = "never by this daemon" if heard is None else f"{lasted(now - heard)} ago"
        table.add_row(peer["subnet"], lasted(told["seconds"]), f"{told['packets']:,}", last)
    if len(peers) > most_problems:
        table.add_row(f"and {len(peers) - most_problems} more")
    return table


def _drops(drops: dict[str, int], title: str, words: dict[str, str]) -> Table:
    table = Table(title, "packets", "meaning", box=SIMPLE)
    for reason, count in sorted(drops.items(), key=lambda item: -item[1]):
        table.add_row(reason, f"{count:,}", words.get(reason, ""))
    return table
