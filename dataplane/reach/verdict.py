"""What a measurement means, in words: from its result and from what the daemon counted meanwhile.

Pure. What must stay true: what only the other node can know is not claimed. Drops are counted for the whole node, so
they are named with the word "meanwhile"; a peer's own counters are not there where the kernel carries the packets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataplane.model import type_vxlan
from dataplane.reach.measure import Result
from dataplane.reach.targets import Target

Document = Mapping[str, Any]


def verdict(result: Result, before: Document, after: Document, meaning: Mapping[str, str]) -> list[str]:
    """Return sentences, none if all is well. `meaning`: what the drop counters count."""
    if result.well:
        return []
    if not result.times:
        return _silent(result, before, after, meaning)
    said = []
    if len(result.times) < result.sent:
        said.append(f"{result.sent - len(result.times)} of {result.sent} small packets were lost.")
    if result.full is False:
        said.append(_too_narrow(result))
    return said


def _too_narrow(result: Result) -> str:
    target, most = result.target, result.largest or 0
    underlay = most + target.overhead
    text = (
        f"small packets pass, {target.mtu}-byte ones do not ({most} is the most that does, there and back): "
        f"something between has an MTU of about {underlay}; "
    )
    if target.backend == type_vxlan:
        return f"{text}lower the backend's MTU option to {underlay} on all nodes, or enlarge the MTU in between."
    return f"{text}lower the MTU of the nodes' interfaces to {underlay}, or enlarge the one in between."


def _silent(result: Result, before: Document, after: Document, meaning: Mapping[str, str]) -> list[str]:
    target = result.target
    then, now = _peer(before, target), _peer(after, target)
    if now is None:
        return ["nothing comes back; meanwhile the peer's lease has gone: `dataplane status` lists the peers."]
    said = []
    told = now.get("unreachable")
    if result.error:
        said.append(f"this node could not send: {result.error}.")
    if told:
        said.append(f"ICMP about {now['public_ip']}: {told['text']}{_said_by(told['said_by'], now, after)}.")
    lost = _grown(before, after, ("send_", "tun_", "device_send"), meaning)
    refused = _grown(before, after, ("receive_", "device_receive"), meaning)
    sent, received = _change(then, now, "tx_packets"), _change(then, now, "rx_packets")
    here = bool(result.error) or (sent is not None and sent < result.sent)
    if result.error:
        pass  # said above
    elif sent is None:
        if not told:
            said.append(
                "sent, nothing came back (the kernel does not count by peer, so from here the direction is open)."
            )
    elif sent < result.sent:
        said.append(f"{sent} of at least {result.sent} packets left for it: what is wrong is on this node.")
    elif received:
        said.append(
            f"packets come from it ({received} meanwhile), but no answer of {target.ask}: a firewall there drops echo "
            "requests, or one here the answers."
        )
    elif not told:
        said.append(f"sent ({sent} packets), nothing came back.")
    said += [f"dropped here meanwhile: {text}." for text in (*lost, *refused)]
    if refused and not received:
        said.append("So something came and was refused; whose it was the counter does not say.")
    if target.direct and target.ask != target.subnet[0]:
        said.append(f"{target.ask} is there only if the node has had a pod: without a tunnel cni0 answers.")
    if here and not told:
        return said
    there = "`dataplane status`, and the daemon's log." if told else _over_there(target)
    said.append(f"On the other node: {there}")
    return said


def _said_by(sender: str, peer: Document, document: Document) -> str:
    if sender == peer["public_ip"]:
        return ""
    lease = document["lease"] or {}
    return f"; says {'this node' if sender in (lease.get('public_ip'), lease.get('public_ipv6')) else sender}"


def _over_there(target: Target) -> str:
    if target.direct:
        return f"`dataplane ping {target.source}`, and `tcpdump -ni any icmp or icmp6` while this runs."
    return (
        f"`dataplane ping {target.source}`, and `dataplane status` before and after: if neither received nor a drop "
        "grows there, what we send is lost in between; if a drop grows, it says why; if sent grows, the answer is lost."
    )


def _peer(document: Document, target: Target) -> Document | None:
    return next((peer for peer in document["peers"] if peer["subnet"] == str(target.subnet)), None)


def _change(then: Document | None, now: Document, name: str) -> int | None:
    before = (then or {}).get(name)
    return None if before is None or now[name] is None else int(now[name] - before)


def _grown(before: Document, after: Document, kinds: tuple[str, ...], meaning: Mapping[str, str]) -> list[str]:
    drops = after["drops"].items()
    grown = {name: count - before["drops"].get(name, 0) for name, count in drops if name.startswith(kinds)}
    # Neighbour discovery of IPv6 on our own devices is no part of this.
    left_out = ("send_multicast",)
    return [
        f"{count} {name} ({meaning.get(name, 'see docs/losses.md')})"
        for name, count in sorted(grown.items(), key=lambda item: -item[1])
        if count > 0 and name not in left_out
    ]
