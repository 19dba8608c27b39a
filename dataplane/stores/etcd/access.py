"""Where etcd is and how to be let in: flannel's --etcd-* flags as one checked value.

Apart from the client so that reading flags needs no grpcio. What must stay true: whatever passes here can be
turned into a channel without another look at its form; the password is never shown.
Source: flannel main.go (defaults), etcd's clientv3 (the scheme decides between plaintext and TLS); flannel.md 2.6.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from dataplane.errors import BadInput

default_endpoints = "http://127.0.0.1:4001,http://127.0.0.1:2379"
default_prefix = "/coreos.com/network"
_allowed = 'allowed are such as "http://192.0.2.1:2379", "https://etcd.example:2379", "unix:///run/etcd.sock"'


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server.

    Attributes:
        name: as the user wrote it, for messages.
        target: as gRPC takes it.
        tls: speak TLS.
    """

    name: str
    target: str
    tls: bool


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """The etcd cluster to use.

    Attributes:
        endpoints: tried in this order.
        prefix: of every key, such as "/coreos.com/network", without a slash at its end.
        keyfile, certfile, cafile: PEM files for TLS; "" for none.
        username, password: "" for none.
    """

    endpoints: tuple[Endpoint, ...]
    prefix: str = default_prefix
    keyfile: str = ""
    certfile: str = ""
    cafile: str = ""
    username: str = ""
    password: str = field(default="", repr=False)


def read_access(
    endpoints: str = default_endpoints,
    prefix: str = default_prefix,
    *,
    keyfile: str = "",
    certfile: str = "",
    cafile: str = "",
    username: str = "",
    password: str = "",
) -> EtcdAccess:
    """Return the flags' texts as one value.

    Raises:
        BadInput: with the flag, its value and what is allowed.
    """
    if bool(keyfile) != bool(certfile):
        raise BadInput("--etcd-keyfile and --etcd-certfile belong together: give both or none")
    if password and not username:
        raise BadInput("--etcd-password needs --etcd-username")
    found = tuple(_endpoint(text.strip(), bool(cafile or certfile)) for text in endpoints.split(",") if text.strip())
    if not found:
        raise BadInput(f"--etcd-endpoints {endpoints!r} names no server; {_allowed}, several with commas between")
    # As Go's path.Join cleans it.
    cleaned = re.sub("/+", "/", prefix).rstrip("/")
    return EtcdAccess(found, cleaned, keyfile, certfile, cafile, username, password)


def _endpoint(text: str, prefers_tls: bool) -> Endpoint:
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "unix":
        if not rest.startswith("/"):
            raise BadInput(f"--etcd-endpoints: {text!r} has no absolute path; {_allowed}")
        return Endpoint(text, f"unix:{rest}", tls=False)
    if not separator:
        # clientv3 speaks TLS to an address without a scheme if it has been given files for it.
        scheme, rest = "https" if prefers_tls else "http", text
    if scheme not in ("http", "https"):
        raise BadInput(f"--etcd-endpoints: {text!r} has the scheme {scheme!r}; {_allowed}")
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadInput(f"--etcd-endpoints: {text!r}: {error}; {_allowed}") from None
    if not host or parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise BadInput(f"--etcd-endpoints: {text!r} is not a server's address; {_allowed}")
    if port is None:
        raise BadInput(f"--etcd-endpoints: {text!r} names no port, etcd's is usually 2379; {_allowed}")
    return Endpoint(text, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", tls=scheme == "https")
