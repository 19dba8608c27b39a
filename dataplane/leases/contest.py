"""Tells of a second node that writes our own lease, and answers it.

Where a store knows a node by its public address, two nodes with one address have one lease: one subnet and one VTEP MAC,
and the underlay alone decides which of the two a packet reaches. How it works: each write of the other's is answered by
a renewal (`doubt`), so that the other learns of us as well, and so on for as long as both live; the renewer rests longer
and longer in between. What must stay true: neither node says that it is ready while the other was there within the last
`calm_s`; whoever can write leases cannot fill the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dataplane.flannel import gotext
from dataplane.leases.renewal import longest_rest_s
from dataplane.model import Lease
from dataplane.observe.state import NodeState
from dataplane.runtime.clock import Clock

log = logging.getLogger(__name__)

subject = "second writer"
# The other may rest as long as we may before it answers, and we before we answer that.
calm_s = 3 * longest_rest_s
quiet_s = 60.0


class Contest:
    """Watches over one lease of ours.

    Args:
        doubt: has the lease renewed soon.
    """

    def __init__(self, own: Lease, state: NodeState, clock: Clock, doubt: Callable[[], None]) -> None:
        self._own = own
        self._state = state
        self._clock = clock
        self._doubt = doubt
        self._written = asyncio.Event()
        self._quiet_until = 0.0

    def written(self, lease: Lease) -> None:
        """Take in that somebody else wrote our lease like this."""
        now = self._clock.now()
        self._state.events["foreign_lease_writes"] += 1
        text = self._state.blockers[subject] = self._text(lease)
        if not self._quiet_until - quiet_s <= now < self._quiet_until:
            self._quiet_until = now + quiet_s
            log.warning("%s", text)
        self._written.set()
        self._doubt()

    async def run(self) -> None:
        """Take back what `written` told once it is over, for ever."""
        try:
            while True:
                await self._written.wait()
                self._written.clear()
                if await self._clock.wait(self._written, calm_s):
                    continue
                self._state.blockers.pop(subject, None)
                log.info("nobody else has written lease %s for %.0f s", self._own.key, calm_s)
        finally:
            self._state.blockers.pop(subject, None)

    def _text(self, theirs: Lease) -> str:
        ours, other = self._own.attrs, theirs.attrs
        address = ours.public_ip or ours.public_ipv6
        says = [
            f"{name} {gotext.show(its)} where we say {gotext.show(our)}"
            for name, its, our in (
                ("PublicIPv6", str(other.public_ipv6), str(ours.public_ipv6)),
                ("BackendType", other.backend_type, ours.backend_type),
                ("BackendData", other.backend_data, ours.backend_data),
                ("BackendV6Data", other.backend_v6_data, ours.backend_v6_data),
            )
            if its != our
        ]
        same = "the same as we do, VTEP MAC included" if ours.backend_data else "the same as we do"
        return (
            f"two nodes have our public address {address}: somebody else writes our lease {self._own.key}, and says "
            f"{' and '.join(says) or same}; give one of them another address (--public-ip, --iface)"
        )
