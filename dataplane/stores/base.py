"""What the daemon asks of a lease store: the embedded one, etcd or Kubernetes behind one Protocol.

Each implementation names this one as its base, and has from here what only another has something to say about.

A store owns three truths: the network configuration, who holds which subnet, and the order in which that
changed. What must stay true of every implementation:
- a subnet is never given to two nodes, whatever is killed and when;
- a watch yields a complete Snapshot before any change and never skips a change silently (it sends a new
  Snapshot instead when it may have missed something);
- content that cannot be decoded is reported by key and isolated.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from dataplane.model import IPAddress, Lease, LeaseAttrs, NetConf, Snapshot, WatchEvent
from dataplane.runtime.pieces import paced


@dataclass(slots=True)
class Watched:
    """A store's watch. `stands`: the store has taken it, so that changes arrive."""

    stands: bool = False


class Store(Protocol):
    """A lease store. All methods raise `StoreError` when the store cannot be used now.

    Attributes:
        first_delay_s: the longest wait before a watch that failed is begun again; doubles with each failure.
        longest_delay_s: to this. What is waited is drawn from 0 on, so that a cluster's daemons do not come in step.
    """

    first_delay_s: float = 0.1
    longest_delay_s: float = 5.0

    @property
    def stands(self) -> bool:
        """Whether the store has taken the watch under way, so that changes arrive."""
        ...

    async def read_config(self) -> NetConf:
        """Return the validated network configuration; raises `BadConfig`, or `NoConfig` when there is none."""
        ...

    async def addresses(self) -> tuple[IPv4Address | None, IPv6Address | None]:
        """Return what an administrator has set in the store as this node's addresses, in place of the flags'."""
        return None, None

    async def earlier(self, public: IPAddress | None) -> Lease | None:
        """Return the lease of our earlier life, if the store still has it.

        Args:
            public: our public address, by which a store knows a node.
        """
        async with aclosing(self.watch()) as events:
            first = await anext(events)
        own: Lease | None = None  # of several the one that `acquire` keeps
        async for lease in paced(first.leases if isinstance(first, Snapshot) else ()):
            if public not in (lease.attrs.public_ip, lease.attrs.public_ipv6):
                continue
            if own is None or lease.born < own.born:
                own = lease
        return own

    async def acquire(self, attrs: LeaseAttrs, previous: Lease | None) -> Lease:
        """Return our lease, choosing the subnet as flannel does (flannel.md section 2.4).

        Args:
            attrs: what to publish; the public address is the node's identity.
            previous: subnets of an earlier life read from subnet.env (its attrs are ignored), or None.
        Raises:
            OutOfSubnets: nothing is free.
        """
        ...

    async def renew(self, lease: Lease, attrs: LeaseAttrs | None = None) -> Lease:
        """Extend our lease and return it with its new expiry; raises `LeaseLost` if it is no longer ours.

        Args:
            attrs: what to publish from now on, when the node moved to another address; None: what `lease` says.
        """
        ...

    def watch(self) -> AsyncGenerator[WatchEvent, None]:
        """Yield a Snapshot, then changes, our own lease included; ends only by `aclose`, cancellation or `StoreError`.

        A store that knows nodes by their address tells besides, by a `SecondWriter`, when another writes our lease.
        """
        ...

    async def announce(self) -> None:
        """Tell whoever asks the store that this node's network is there; called once, when it is."""
        return

    async def ping(self) -> None:
        """Touch the store once, cheaply: returns when it answers, raises `StoreError` when it does not.

        Called about once a second; readiness depends on it.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and files. Leases stay, as flannel's do."""
        ...
