"""What is measured of a peer, by an echo that answers as a network of some MTU would."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter

import pytest

from dataplane.reach.measure import Result, largest, measure, measure_all, milliseconds, most_at_once, tries
from dataplane.reach.targets import Target, targets
from tests.reach.documents import document


class Network:
    """Answers what is not larger than `mtu`, after losing the first `loses` packets of each size."""

    def __init__(self, mtu: int, loses: int = 0, error: int = 0) -> None:
        self.mtu, self.loses, self.error = mtu, loses, error
        self.asked: Counter[int] = Counter()
        self.now = self.most = 0

    async def ask(self, target: Target, size: int, wait_s: float) -> float | None:
        self.asked[size] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        if self.error:
            raise OSError(self.error, "")
        return 0.001 if size <= self.mtu and self.asked[size] > self.loses else None


def measured(network: Network, count: int = 1) -> Result:
    return asyncio.run(measure(network, targets(document())[0], count))


def test_all_well() -> None:
    network = Network(1500)
    result = measured(network, 2)
    assert (result.well, len(result.times), result.full, result.largest) == (True, 2, True, 1450)
    assert network.asked == {84: 2, 1450: 1}


@pytest.mark.parametrize("mtu", [84, 85, 700, 1353, 1449])
def test_the_largest_that_passes_is_found_with_few_packets(mtu: int) -> None:
    network = Network(mtu)
    result = measured(network)
    assert (result.well, result.full, result.largest) == (False, False, mtu)
    assert sum(network.asked.values()) <= 1 + tries * 12


def test_a_single_loss_does_not_make_the_mtu_smaller() -> None:
    network = Network(1500, loses=tries - 1)
    assert measured(network, tries).full is True


def test_what_cannot_be_sent_says_why() -> None:
    result = measured(Network(1500, error=errno.EPERM))
    assert (result.times, result.error, result.full) == ([], "Operation not permitted", None)


def test_peers_are_asked_at_once_and_no_more_than_some() -> None:
    network, done = Network(1500), list[Result]()
    many = targets(document())[:1] * (3 * most_at_once)
    results = asyncio.run(measure_all(network, many, 1, done.append))
    assert len(done) == len(results) == len(many)
    assert network.most == most_at_once


def test_the_search_ends_beside_its_bounds() -> None:
    async def passes(size: int) -> bool:
        return size < 101

    assert asyncio.run(largest(passes, 1, 101)) == 100
    assert asyncio.run(largest(passes, 100, 101)) == 100


def test_round_trips_in_milliseconds() -> None:
    assert milliseconds([0.003, 0.001, 0.0015]) == (1.0, 1.5, 3.0)
