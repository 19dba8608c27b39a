"""What is the same for every life of this daemon, handed on as one thing."""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.backends import Backend
from dataplane.daemon.options import Options
from dataplane.host.netlink import Host
from dataplane.keepers.opening import Opener
from dataplane.model import NetConf
from dataplane.observe.state import NodeState
from dataplane.runtime.clock import Clock
from dataplane.stores.base import Store
from dataplane.takeover.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Premises:
    """What a life stands on.

    Attributes:
        options: the flags, with the addresses that the store has set in place of theirs.
        conf, backend: the network configuration as it was at the start, and what it asks for.
        opener: where TUN devices come from, those of the process before us among them.
        recorder: writes down for the next process what is forwarded.
    """

    options: Options
    state: NodeState
    clock: Clock
    store: Store
    host: Host
    conf: NetConf
    backend: Backend
    opener: Opener
    recorder: Recorder
