"""`dataplane top`: rates of two status documents, and how they are shown."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.cli.rates import PeerRates, Rates, rates
from dataplane.cli.top import block, short


def peer(subnet: str, *counts: int | None, device: str = "flannel.1") -> dict[str, Any]:
    names = ("tx_packets", "tx_bytes", "rx_packets", "rx_bytes")
    return {"subnet": subnet, "device": device, **dict(zip(names, counts, strict=True))}


def status(*peers: dict[str, Any], drops: dict[str, int] | None = None) -> dict[str, Any]:
    told = drops or {}
    return {"peers": list(peers), "drops": told, "host_drops": {}, "ready": True, "backend": "vxlan", "time": 0.0}


def test_a_second_by_peer_the_busiest_first() -> None:
    before = status(
        peer("10.0.1.0/24", 10, 100, 20, 200), peer("10.0.2.0/24", 0, 0, 0, 0), peer("10.0.3.0/24", 1, 1, 1, 1)
    )
    after = status(
        peer("10.0.1.0/24", 12, 140, 20, 200), peer("10.0.2.0/24", 0, 0, 4, 900), peer("10.0.3.0/24", 1, 1, 1, 1)
    )
    assert rates(before, after, 2.0).peers == (
        PeerRates("10.0.2.0/24", 0, 0, 2, 450),
        PeerRates("10.0.1.0/24", 1, 20, 0, 0),
    )
    assert rates(before, after, 2.0).quiet == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([], [peer("10.0.1.0/24", 5, 5, 5, 5)]),  # it came
        ([peer("10.0.1.0/24", 5, 5, 5, 5)], []),  # it went
        ([peer("10.0.1.0/24", 5, 5, 5, 5)], [peer("10.0.1.0/24", 9, 9, 1, 1)]),  # it counts anew
        ([peer("10.0.1.0/24", 5, 5, 5, 5)], [peer("10.0.1.0/24", 9, 9, 9, 9, device="flannel0")]),
    ],
)
def test_no_rate_rather_than_a_wrong_one(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
    assert rates(status(*old), status(*new), 1.0).peers == ()


def test_the_kernel_counts_by_no_peer() -> None:
    both = status(peer("10.0.1.0/24", None, None, None, None))
    found = rates(both, both, 1.0)
    assert found.peers is None
    assert "counts by no peer" in "\n".join(block(found, both, 80, 9))
    assert rates(status(), status(), 1.0).peers == ()


def test_drops_that_grew() -> None:
    found = rates(
        status(drops={"send_ttl": 5, "send_gso": 9}), status(drops={"send_ttl": 9, "send_gso": 9, "tun_full": 1}), 2.0
    )
    assert found.drops == (("send_ttl", 2.0), ("tun_full", 0.5))


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0, "0.0"), (0.04, "0.0"), (9.94, "9.9"), (9.96, "10"), (17, "17"), (999, "999"), (999.6, "1k"), (1540, "1.54k"),
        (15_400, "15.4k"), (999_400, "999k"), (999_600, "1M"), (2.4e8, "240M"), (1e10, "10G"), (7e15, "7000T"),
    ],
)  # fmt: skip
def test_short(rate: float, text: str) -> None:
    assert short(rate) == text


def test_sixty_columns_hold_it() -> None:
    rows = tuple(PeerRates(f"10.244.{number}.0/24", 123456.0, 1.23e9, 1.0, 2.0) for number in range(9))
    drops = (("receive_inner_destination", 123456.0), ("tun_full", 1.0))
    lines = list(block(Rates(rows, drops, 3), status(), 60, 4))
    assert max(map(len, lines)) <= 60
    assert not any(line.endswith(" ") for line in lines)
    assert "and 5 more with less" in lines and "3 more without traffic" in lines
    assert lines[-3:] == ["  dropped     1.0/s  tun_full", "    the TUN device's queue is full", ""]


@pytest.mark.parametrize("words", [("--interval=0",), ("--interval=x",), ("--count=0",), ("--count=-1",)])
def test_wrong_usage(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    from dataplane.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["top", *words])
    assert ended.value.code == 2
    assert words[0].split("=")[0] in capsys.readouterr().err
