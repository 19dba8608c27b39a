"""The connections to the API server: credentials and certificates of the disk, taken up as they change there.

kubeconfig, TLS and the forms of credentials are lightkube's. What must stay true: a pool is never closed under a request, so
that a slow answer to one cuts no other, the watch least of all; what was renewed on the disk (the kubelet renews a pod's
token before its hour is over) is used by every request that begins a minute later, and by the first one after a failure.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import msgspec
import yaml
from lightkube.config.client_adapter import user_auth, verify_cluster
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError

from dataplane.errors import BadInput, StoreError, printable
from dataplane.stores.kube.access import KubeAccess
from dataplane.stores.kube.unsupported import refuse_members, refuse_proxy

look_s = 50.0  # between two looks at the files
_keepalive = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)

# What lightkube and the parsers below it raise for a file of another form.
_malformed = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    httpx2.InvalidURL,
    yaml.YAMLError,
    msgspec.MsgspecError,
)
_Stamp = tuple[tuple[str, tuple[int, int, int] | None], ...]


class Connections:
    """One pool of connections at a time, and those before it for as long as a request is under way there.

    Args:
        access: where the API server is; files are read now.
        look_s: how often the files are looked at, in seconds.
    Raises:
        StoreError: the kubeconfig cannot be used, or there is none and we are no pod.
    """

    def __init__(self, access: KubeAccess, look_s: float = look_s) -> None:
        self._access = access
        self._look_s = look_s
        self._look_at = time.monotonic() + look_s
        self._pool: _Pool | None = _connect(access)
        self._retired: set[_Pool] = set()

    @asynccontextmanager
    async def use(self) -> AsyncGenerator[httpx2.AsyncClient, None]:
        """Give the pool for one request; raises `StoreError` where the files cannot be used (now)."""
        await self._look()
        pool = self._pool = self._pool or _connect(self._access)
        pool.users += 1
        try:
            yield pool.http
        finally:
            pool.users -= 1
            if pool is not self._pool and not pool.users:
                self._retired.discard(pool)
                await pool.http.aclose()

    async def renew(self) -> None:
        """Make the next request on a new connection, with the credentials and certificates that are there then."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        if pool.users:
            self._retired.add(pool)
        else:
            await pool.http.aclose()

    async def close(self) -> None:
        """Close all, under whoever uses them."""
        pools = self._retired | ({self._pool} if self._pool is not None else set())
        self._pool = None
        self._retired = set()
        for pool in pools:
            await pool.http.aclose()

    async def _look(self) -> None:
        pool = self._pool
        if pool is None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + self._look_s
        if await asyncio.to_thread(_stamp, pool.files) != pool.stamp and pool is self._pool:
            await self.renew()


class _Pool:
    """Connections with what the files said when they were read."""

    def __init__(self, http: httpx2.AsyncClient, files: tuple[str, ...], stamp: _Stamp) -> None:
        self.http = http
        self.files = files
        self.stamp = stamp
        self.users = 0


def _connect(access: KubeAccess) -> _Pool:
    try:
        config = _config(access)
        user = config.user or User()
        files = _files(access, config)
        stamp = _stamp(files)  # before they are read: what changes in between is read once more
        http = httpx2.AsyncClient(
            base_url=config.cluster.server,
            auth=user_auth(user),
            headers={"User-Agent": "flannel-dataplane", "Accept": "application/json"},
            transport=httpx2.AsyncHTTPTransport(
                verify=verify_cluster(config.cluster, user, config.abs_file), socket_options=_keepalive
            ),
            timeout=None,  # each call has a limit of its own
        )
    except OSError as error:
        what = error.filename or "a certificate or key that it names"
        raise StoreError(f"cannot use {_source(access)}: {what}: {error.strerror or error}") from error
    except (ConfigError, BadInput) as error:
        raise StoreError(f"cannot use {_source(access)}: {printable(str(error))}") from error
    except _malformed as error:
        text = (
            f"it is no kubeconfig ({printable(repr(error))}); allowed is one with clusters, contexts, current-context"
        )
        raise StoreError(f"cannot use {_source(access)}: {text}") from error
    return _Pool(http, files, stamp)


def _files(access: KubeAccess, config: SingleConfig) -> tuple[str, ...]:
    """Return what a connection is made of on the disk."""
    user = config.user or User()
    named = (user.client_cert, user.client_key, config.cluster.certificate_auth)
    files = [str(config.abs_file(name)) for name in named if name]
    files += [user.token_file] if user.token_file else []
    files += [str(access.kubeconfig)] if access.kubeconfig is not None else []
    return tuple(files)


def _stamp(files: tuple[str, ...]) -> _Stamp:
    """Return what tells a file from the one that took its place; a pod's are links into a directory that is exchanged."""
    found: list[tuple[str, tuple[int, int, int] | None]] = []
    for name in files:
        try:
            status = Path(name).stat()
        except OSError:
            found.append((name, None))
        else:
            found.append((name, (status.st_ino, status.st_mtime_ns, status.st_size)))
    return tuple(found)


def _config(access: KubeAccess) -> SingleConfig:
    """As client-go's BuildConfigFromFlags: a kubeconfig, an URL that goes before its server, or a pod's own account."""
    if access.kubeconfig is not None:
        document = yaml.safe_load(access.kubeconfig.read_text())
        refuse_members(document)
        loaded = KubeConfig.from_dict(document, fname=access.kubeconfig)
    elif access.api_url:
        loaded = KubeConfig.from_server(access.api_url)
    elif "KUBERNETES_SERVICE_HOST" in os.environ:
        loaded = KubeConfig.from_service_account()
    else:
        raise ConfigError(
            "KUBERNETES_SERVICE_HOST is not set; allowed outside of a pod: --kubeconfig-file, --kube-api-url"
        )
    config = loaded.get()
    if config is None:
        raise ConfigError("it has no current context")
    if access.api_url:
        config.cluster.server = access.api_url
    if not config.cluster.server.startswith(("http://", "https://")):
        raise ConfigError(f"server {config.cluster.server!r} is no URL; allowed are http:// and https://")
    refuse_proxy(config.cluster.server, os.environ)
    return config


def _source(access: KubeAccess) -> str:
    if access.kubeconfig is not None:
        return f"--kubeconfig-file {access.kubeconfig}"
    return f"--kube-api-url {access.api_url}" if access.api_url else "the service account of our pod"
