"""Whatever was received is closed again, however little of it can be used."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dataplane.errors import HostError
from dataplane.keepers.device import Before, TunDevice
from dataplane.takeover.descriptors import Kept
from tests.takeover.test_form import plan


@pytest.fixture
def null() -> Iterator[list[int]]:
    """Descriptors that are neither TUN nor socket."""
    yield [os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC) for _ in range(4)]


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_each_role_in_its_order(null: list[int]) -> None:
    names = ("flannel.1/tun/1", "flannel.1/receive/0", "flannel.1/tun/0", "flannel.1/source/0")
    kept = Kept(dict(zip(names, null, strict=True)))
    assert kept.of("flannel.1") == {"tun": (null[2], null[0]), "receive": (null[1],), "source": (null[3],)}
    kept.close()
    assert all(map(is_open, null))
    for fd in null:
        os.close(fd)


@pytest.mark.parametrize("missing", ["flannel.1/tun/0", "flannel.1/receive/0"])
def test_what_is_of_no_use_is_closed(null: list[int], missing: str) -> None:
    names = ("flannel.1/tun/0", "flannel.1/receive/0", "flannel.1/source/0", "flannel.1/source/1")
    kept = Kept({name if name != missing else "another": fd for name, fd in zip(names, null, strict=True)})
    assert kept.of("flannel.1") is None
    kept.close()
    assert not any(map(is_open, null))


@pytest.mark.parametrize("wire", ["vxlan", "udp"])
def test_queues_that_are_none_are_closed_with_the_sockets(null: list[int], wire: str) -> None:
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach() for _ in range(3)]
    before = Before("flannel.1", 7, tuple(null), tuple(sockets[:1]), tuple(sockets[1:]) if wire == "vxlan" else ())
    with pytest.raises(HostError, match="no queues of one TUN device"):
        TunDevice(replace(plan, wire=wire), 1, 0, before=before)
    assert not any(map(is_open, null))
    assert not any(map(is_open, sockets[: 3 if wire == "vxlan" else 1]))
    for fd in filter(is_open, sockets):
        os.close(fd)
