"""Keeps written down what the next process needs to forward at once: the tables, as they are now.

What must stay true: what was told of counters is written before it is told, so that they never go back, however we end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from dataplane.errors import HostError
from dataplane.keepers.device import TunDevice
from dataplane.keepers.opening import Opener
from dataplane.observe.state import NodeState
from dataplane.runtime.place import here
from dataplane.runtime.say import Say
from dataplane.takeover import record
from dataplane.takeover.form import Carried, CarriedDevice, boot_now, encode

log = logging.getLogger(__name__)

look_s = 0.5
write_s = 10.0


class Recorder:
    """What is written down, and when: nothing before `begin`.

    Attributes:
        is_over: another process writes from now on.
    """

    def __init__(self, run_dir: Path, opener: Opener, state: NodeState) -> None:
        self._run_dir = run_dir
        self._opener = opener
        self._state = state
        self._say = Say(log)
        self._written: object = None
        self._ends: Callable[[], Mapping[str, float]] | None = None
        self._before: Carried | None = None
        self._writing = asyncio.Lock()
        self.is_over = False

    def inherit(self, before: Carried) -> None:
        """What the process before us knew of leases holds until we know better."""
        self._before = before

    def begin(self, ends: Callable[[], Mapping[str, float]]) -> None:
        """The tables are whole: what the process before us wrote is to be replaced.

        Args:
            ends: returns the Unix times at which leases end that say so, by prefix; our own among them.
        """
        self._ends = ends

    def forget(self) -> None:
        """Our lease is lost: nobody is to forward for it."""
        self._ends, self._written, self._before = None, None, None
        record.remove(self._run_dir)

    def carried(self) -> Carried:
        """What the next process is to know."""
        now, boot = self._state.now(), boot_now()
        contact = self._state.store_contact
        told = 0.0 if contact is None else boot - max(0.0, now - contact)
        if self._ends is not None:
            ends = {prefix: boot + end - now for prefix, end in self._ends().items()}
        elif self._before is not None:
            ends = {prefix: end for device in self._before.devices for prefix, end in device.ends.items()}
            told = self._before.contact
        else:
            ends = {}
        with self._opener.open_ones() as devices:
            carried = tuple(_carried(device, ends) for device in devices)
        return Carried(
            place=here(),
            since=self._state.forwarding_since or now,
            contact=told,
            devices=carried,
        )

    async def run(self) -> None:
        """Write soon after each change of a table, and now and then for the rest, for ever."""
        passed = 0.0
        while True:
            await asyncio.sleep(look_s)
            passed += look_s
            if passed >= write_s or self._version() != self._written:
                passed = 0.0
                await self.write()

    async def write(self) -> None:
        """Write it down now; what fails is told."""
        async with self._writing:
            if self._ends is None or self.is_over:
                return
            version = self._version()
            try:
                content = encode(self.carried())
                await asyncio.to_thread(record.write, self._run_dir, content)
            except (HostError, OSError) as error:
                self._say.warn("write", f"a restart would not know what is forwarded: {error}", self._state.now())
            else:
                self._say.over("write", "what is forwarded is written down again")
                self._written = version

    def _version(self) -> object:
        with self._opener.open_ones() as devices:
            return {device.index: (device.descriptors, device.forwarder.commits) for device in devices}


def _carried(device: TunDevice, ends: Mapping[str, float]) -> CarriedDevice:
    counters, peers = device.forwarder.told()
    return CarriedDevice(
        plan=device.plan,
        name=device.name,
        index=device.index,
        workers=device.workers,
        spin_us=device.spin_us,
        table=device.forwarder.table(),
        peers=peers,
        counters=counters,
        kernel_drops=device.kernel_drops(),
        host_drops=device.host_drops(),
        ends=ends,
    )
