"""What is said of a measurement; each is a trouble that was made in the lab, or one that it cannot make."""

from __future__ import annotations

from typing import Any

from dataplane.reach.measure import Result
from dataplane.reach.targets import targets
from dataplane.reach.verdict import verdict
from tests.reach.documents import document

words = {"receive_unknown_sender": "sender holds no lease", "send_error": "the network refused the datagram"}
port_closed = {"text": "port closed: no daemon listens there", "said_by": "192.0.2.2"}


def said(after: dict[str, Any], before: dict[str, Any] | None = None, error: str = "") -> str:
    """Of five packets without an answer."""
    first = document(backend=after["backend"], direct=after["peers"][0]["direct"]) if before is None else before
    return "\n".join(verdict(Result(targets(first)[0], 5, error=error), first, after, words))


def narrow(backend: str, *, direct: bool = False) -> str:
    result = Result(targets(document(backend=backend, direct=direct))[0], 2, [0.001, 0.001], "", False, 1350)
    (text,) = verdict(result, document(), document(), {})
    return text


def test_nothing_is_said_where_all_is_well() -> None:
    result = Result(targets(document())[0], 1, [0.001], "", True, 1450)
    assert verdict(result, document(), document(), words) == []


def test_small_packets_pass_and_large_ones_do_not() -> None:
    text = narrow("vxlan")
    assert "small packets pass, 1450-byte ones do not (1350 is the most" in text
    assert "an MTU of about 1400; lower the backend's MTU option to 1400" in text
    # These have no such option.
    assert "an MTU of about 1378; lower the MTU of the nodes' interfaces to 1378" in narrow("udp")
    assert "an MTU of about 1350; lower the MTU of the nodes' interfaces to 1350" in narrow("host-gw", direct=True)


def test_some_were_lost() -> None:
    result = Result(targets(document())[0], 5, [0.001] * 3, "", True, 1450)
    assert verdict(result, document(), document(), words) == ["2 of 5 small packets were lost."]


def test_sent_and_nothing_came_back() -> None:
    text = said(document(counts=(5, 0)))
    assert "sent (5 packets), nothing came back." in text
    assert "dropped here" not in text
    assert "On the other node: `dataplane ping 10.244.1.0`" in text


def test_what_came_was_refused() -> None:
    text = said(document(counts=(5, 0), drops={"receive_unknown_sender": 5}))
    assert "dropped here meanwhile: 5 receive_unknown_sender (sender holds no lease)." in text
    assert "something came and was refused" in text


def test_a_drop_from_before_is_not_named() -> None:
    drops = {"receive_unknown_sender": 5}
    assert "dropped" not in said(document(counts=(5, 0), drops=drops), document(drops=drops))


def test_packets_come_but_no_answer() -> None:
    assert "packets come from it (3 meanwhile), but no answer of 10.244.2.0" in said(document(counts=(5, 3)))


def test_icmp_says_why() -> None:
    text = said(document(counts=(5, 0), unreachable=port_closed))
    assert "ICMP about 192.0.2.2: port closed: no daemon listens there." in text
    assert "nothing came back" not in text
    router = said(document(counts=(5, 0), unreachable=port_closed | {"said_by": "192.0.2.9"}))
    assert "no daemon listens there; says 192.0.2.9." in router
    ours = said(document(counts=(5, 0), unreachable=port_closed | {"said_by": "192.0.2.1"}))
    assert "no daemon listens there; says this node." in ours


def test_nothing_leaves_this_node() -> None:
    text = said(document(counts=(1, 0), drops={"send_error": 4}))
    assert "1 of at least 5 packets left for it: what is wrong is on this node." in text
    assert "4 send_error (the network refused the datagram)" in text
    refused = said(document(), error="Operation not permitted")
    assert "this node could not send: Operation not permitted." in refused
    assert "On the other node" not in text + refused


def test_where_the_kernel_carries_them_no_direction_is_claimed() -> None:
    text = said(document(counts=None), document(counts=None))
    assert "from here the direction is open" in text


def test_without_a_tunnel_the_answering_address_may_not_be_there() -> None:
    text = said(
        document(backend="host-gw", direct=True, counts=None), document(backend="host-gw", direct=True, counts=None)
    )
    assert "10.244.2.1 is there only if the node has had a pod" in text


def test_the_lease_went_meanwhile() -> None:
    assert "meanwhile the peer's lease has gone" in said(document() | {"peers": []}, document())
