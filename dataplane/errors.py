"""Every error that this project raises on purpose, in one small tree.

The message of each names what was wrong, where, and what would be allowed; the command line prints it as
it stands. What must stay true: bad input is a `BadInput`, never a bare ValueError from somewhere below.
"""

from __future__ import annotations

import errno

longest_shown = 400
"""Characters of somebody else's text that a message may carry."""


def printable(text: str) -> str:
    """Return foreign text for a log or a terminal: one line without control characters, shortened in the middle.

    What is short and printable stays as it is, so doing it twice changes nothing.
    """
    if len(text) > longest_shown:
        text = f"{text[: longest_shown // 2]}...{text[-longest_shown // 4 :]}"
    if text.isprintable():
        return text
    text = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
    return text if len(text) <= longest_shown else f"{text[: longest_shown - 3]}..."


class DataplaneError(Exception):
    """Root of the tree: anything the command line reports in one line, without a traceback."""


class BadInput(DataplaneError):
    """Something handed to us is wrong: a flag, a file, a lease, a datagram."""


class BadConfig(BadInput):
    """The network configuration (net-conf.json) cannot be used as it is."""


class BadLease(BadInput):
    """One lease cannot be used. It is isolated: the others go on.

    Args:
        key: how the store names the lease, e.g. "10.244.3.0-24".
        reason: what is wrong with it and what would be allowed.

    Both may hold text from the store; here is where it is made fit for logs and terminals.
    """

    def __init__(self, key: str, reason: str) -> None:
        self.key = printable(key)
        self.reason = printable(reason)
        super().__init__(f"lease {self.key}: {self.reason}")


class OursClaimed(BadLease):
    """The lease claims what is ours: our subnet, public address or VTEP MAC."""


class StoreError(DataplaneError):
    """The lease store cannot be used (now): unreachable, corrupt, on an unsuitable file system."""


class NoConfig(StoreError):
    """The lease store answers, and has no network configuration (yet)."""


class NoLease(StoreError):
    """The lease store answers, and has no lease for us (yet)."""


class StoreBusy(StoreError):
    """Somebody holds the lease store and will let go of it: to be waited for, however long."""


class OutOfSubnets(StoreError):
    """Every subnet between SubnetMin and SubnetMax overlaps a lease."""


class LeaseLost(StoreError):
    """Our own lease expired, was deleted, or is held by somebody else."""


class LeaseWithdrawn(LeaseLost):
    """The store has taken it back, and gives us one again by itself: to be waited for, however long."""


class Moved(DataplaneError):
    """The node's external interface is another one, or has another address or MTU: one life ends, the next begins.

    Args:
        external: the interface as it is now (`host.interface.ExternalInterface`).
    """

    def __init__(self, text: str, external: object) -> None:
        super().__init__(text)
        self.external = external


class HostError(DataplaneError):
    """The host refused something we asked of it: a device, an address, a route, a socket.

    Hosts change between a look and what is done after it, so this passes: it is told, and tried again.
    """


class HostFault(HostError):
    """The same for a reason that a person must mend: no right, no such interface or feature, another program in the way.

    It ends a first start at once. A node that has stood goes on and waits for it too.
    """


_faults = frozenset(
    {
        errno.EPERM,
        errno.EACCES,
        errno.EADDRINUSE,
        errno.EOPNOTSUPP,
        errno.EAFNOSUPPORT,
        errno.EPROTONOSUPPORT,
        errno.ENOSYS,
    }
)


def host_error(text: str, number: int | None) -> HostError:
    """Return the error for what the host refused with this errno: a `HostFault` where trying again is of no use."""
    return HostFault(text) if number in _faults else HostError(text)


class CoreError(DataplaneError):
    """The C core refused a call; carries the errno.

    Args:
        call: name of the core's function.
        errno: positive errno value it answered.
        text: what that means here.
    """

    def __init__(self, call: str, errno: int, text: str) -> None:
        super().__init__(f"{call}: {text} (errno {errno})")
        self.call = call
        self.errno = errno
