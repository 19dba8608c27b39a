"""Every error that this project raises on purpose, in one small tree.

The message of each names what was wrong, where, and what would be allowed; the command line prints it as
it stands. What must stay true: bad input is a `BadInput`, never a bare ValueError from somewhere below.
"""


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
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"lease {key}: {reason}")
        self.key = key
        self.reason = reason


class StoreError(DataplaneError):
    """The lease store cannot be used (now): unreachable, corrupt, on an unsuitable file system."""


class OutOfSubnets(StoreError):
    """Every subnet between SubnetMin and SubnetMax overlaps a lease."""


class LeaseLost(StoreError):
    """Our own lease expired, was deleted, or is held by somebody else."""


class HostError(DataplaneError):
    """The host refused something we asked of it: a device, an address, a route, a socket."""


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
