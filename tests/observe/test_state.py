"""Readiness follows what is true now, and every reason has words."""

from __future__ import annotations

from typing import get_args

from dataplane.cli import status_view
from dataplane.model import UnreachableReason
from dataplane.observe.state import NodeState, unreachable_words
from tests import root
from tests.observe.node import now_s, running


def test_ready_and_each_reason_not_to_be() -> None:
    state, clock, forwarder = running()
    assert state.unready() == []
    state.blockers["device"] = "flannel.1: the name is taken"
    assert state.unready() == ["flannel.1: the name is taken"]
    state.blockers.clear()
    forwarder.failures = ("worker 1: Bad file descriptor",)
    assert state.unready() == ["flannel.1: worker 1: Bad file descriptor"]
    assert state.workers_alive(state.devices["flannel.1"]) == 1
    forwarder.failures = ()
    state.devices["flannel.1"].forwarding = None
    assert state.unready() == ["device flannel.1 does not exist"]
    state.devices["flannel.1"].forwarding = forwarder
    clock.time += 4
    assert state.unready() == []
    clock.time += 2
    assert state.unready() == ["no contact with the lease store for 6 s"]
    clock.time = state.store_contact = now_s + 7201
    assert state.unready() == ["our lease 10.244.1.0-24 has expired and could not be renewed"]


def test_a_new_node_is_not_ready() -> None:
    assert NodeState().unready() == ["still starting", "no contact with the lease store yet"]


def test_refused_leases_are_problems_but_no_reason_to_be_unready() -> None:
    state, _, _ = running()
    state.refused["10.244.9.0-24"] = "BackendData is missing"
    assert state.unready() == []
    assert list(state.problems()) == ["lease 10.244.9.0-24 is not used: BackendData is missing"]


def test_every_reason_has_words() -> None:
    assert set(unreachable_words) == set(get_args(UnreachableReason))


def test_every_drop_reason_is_in_the_table_of_losses() -> None:
    table = (root / "docs" / "losses.md").read_text()
    for reason in (*status_view.drop_words, *status_view.host_drop_words):
        assert f"| `{reason}` |" in table
