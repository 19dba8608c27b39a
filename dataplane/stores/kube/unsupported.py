"""What a kubeconfig or the environment asks of a client and ours does not do: refused by name before the first request.

lightkube drops the members of a kubeconfig that it does not know, and our transport reads no proxy from the environment.
So requests would go past the proxy, or be another user's. Of exec plugins it knows two old versions only, passes them no
KUBERNETES_EXEC_INFO, takes no client certificate from them, and waits for them without limit. What must stay true: what
is refused names the entry and what to write in its place; no password is shown; a document of another form passes, for
whoever reads it next to refuse.
Source: client-go tools/clientcmd/api/v1/types.go (AuthInfo, Cluster); golang.org/x/net/http/httpproxy (NO_PROXY).
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from dataplane.errors import BadInput, printable

_credentials = "allowed are token, tokenFile, client-certificate with client-key, username with password"
_of_users = {
    "exec": f"exec plugins are not run; {_credentials}",
    "auth-provider": f"it is gone from Kubernetes too; {_credentials}",
    "as": "impersonation is not supported; give the daemon credentials of its own",
    "as-uid": "impersonation is not supported; give the daemon credentials of its own",
    "as-groups": "impersonation is not supported; give the daemon credentials of its own",
    "as-user-extra": "impersonation is not supported; give the daemon credentials of its own",
}
_of_clusters = {
    "proxy-url": "proxies are not supported; the daemon must reach server directly",
    "tls-server-name": "name server as its certificate does",
}
_default_ports = {"http": 80, "https": 443}


def refuse_members(kubeconfig: object) -> None:
    """Look at the cluster and the user of a kubeconfig's current context, as YAML has them.

    Raises:
        BadInput: they have a member that changes requests and is not supported.
    """
    context = _named(kubeconfig, "context", _member(kubeconfig, "current-context"))
    for kind, refused in (("cluster", _of_clusters), ("user", _of_users)):
        name = _member(context, kind)
        entry = _named(kubeconfig, kind, name)
        for member, advice in refused.items():
            value = _member(entry, member)
            if not value:
                continue
            command = _member(value, "command") if member == "exec" else None
            what = f"exec ({command})" if command else member
            raise BadInput(printable(f"{kind} {str(name)!r} has {what}: {advice}"))


def refuse_proxy(server: str, environment: Mapping[str, str]) -> None:
    """Look whether the environment sends requests to the API server at this URL through a proxy, as Go reads it.

    Raises:
        BadInput: it does.
    """
    url = urlsplit(server)
    host = (url.hostname or "").rstrip(".")
    variable, proxy = _variable(environment, f"{url.scheme.upper()}_PROXY")
    if not proxy or not host or host == "localhost":
        return
    address = _address(host)
    if address is not None and address.is_loopback:
        return
    name, exceptions = _variable(environment, "NO_PROXY")
    port = url.port or _default_ports.get(url.scheme, 0)
    if any(_excepts(entry.strip().lower(), host, address, port) for entry in exceptions.split(",")):
        return
    where = urlsplit(proxy if "//" in proxy else f"//{proxy}").hostname or "set"
    text = f"{variable} is {where}, and {server} would be asked through it: proxies are not supported"
    raise BadInput(printable(f"{text}; add {host} to {name}"))


def _excepts(entry: str, host: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:
    """Say whether one entry of NO_PROXY is about this host: "*", an address or a network, or a domain; with a port too."""
    if entry == "*":
        return True
    if address is not None:
        try:
            return address in ip_network(entry, strict=False)
        except ValueError:
            pass  # with a port, or a domain
    name, colon, number = entry.rpartition(":")
    if colon and number.isdecimal():
        if int(number) != port:
            return False
        entry = name.removeprefix("[").removesuffix("]")
    if not entry or (address is not None):
        return bool(entry) and _address(entry) == address
    if entry.startswith(("*.", ".")):
        return host.endswith(entry.removeprefix("*"))
    return host == entry or host.endswith(f".{entry}")


def _variable(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    """Return the name and value of a variable, which may be written in small letters; the large ones go first."""
    for spelling in (name, name.lower()):
        if environment.get(spelling):
            return spelling, environment[spelling]
    return name, ""


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _named(kubeconfig: object, kind: str, name: object) -> object:
    """Return the entry of this name among a kubeconfig's clusters, contexts or users."""
    entries = _member(kubeconfig, f"{kind}s")
    for entry in entries if isinstance(entries, list) else []:
        if name is not None and _member(entry, "name") == name:
            return _member(entry, kind)
    return None


def _member(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
