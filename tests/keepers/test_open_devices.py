"""Who reads the open devices has none of them closed meanwhile, though keepers close theirs in threads of their own."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dataplane.backends.base import DevicePlan
from dataplane.keepers.device import TunDevice
from dataplane.keepers.opening import Opener


class Device:
    """Knows whether it is open."""

    name, index, descriptors = "flannel.1", 7, {}

    def __init__(self) -> None:
        self.plan = cast(DevicePlan, SimpleNamespace(name="vxlan4"))
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    leave = close


class NoStore:
    """Keeps nothing."""

    def keep(self, plan: str, descriptors: Any) -> None:
        """Do nothing."""

    def has(self, plan: str, descriptors: Any) -> None:
        """Do nothing."""

    def forget(self, plan: str) -> None:
        """Do nothing."""


@pytest.mark.parametrize("way", ["close", "leave"])
def test_a_device_that_is_read_is_closed_afterwards(way: str) -> None:
    opener = Opener(1, 0, stays=True, store=NoStore(), write_down=lambda name, index: None)
    device = Device()
    opener.inherit(cast(TunDevice, device))
    closing = threading.Thread(target=getattr(opener, way), args=(device.plan,))
    with opener.open_ones() as devices:
        closing.start()
        closing.join(0.1)
        assert list(devices) == [device]
        assert device.is_open
    closing.join()
    assert not device.is_open
    with opener.open_ones() as devices:
        assert devices == ()
