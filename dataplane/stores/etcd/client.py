"""Calls to an etcd cluster: channels, deadlines, failover, authentication; nothing about leases.

How it works: one channel for each endpoint, made when first used. A read goes round the endpoints until one answers,
and later calls begin with that one. A write goes to that one only: it may have been carried out although no answer
came. What must stay true: every call has a deadline; whatever goes wrong is a `StoreError`, and `Unanswered` where
the outcome is not known; a token that etcd no longer takes is replaced, once per call; new certificates on disk are used
without a restart, and files that cannot be used leave the connection as it is.

Sources: etcd api/v3rpc/rpctypes (metadata names, error texts), gRPC's core/channel_arg_names.h.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

# Who forks here (iptables) calls exec at once; gRPC's preparations for more only fail, with a message each time.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# It writes lines of its own form to stderr, one at least for each TLS handshake that fails; what they say, we say.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio
from google.protobuf.message import Message

from dataplane.errors import BadInput, StoreError, printable
from dataplane.stores.etcd import etcd_pb2 as pb
from dataplane.stores.etcd import tls
from dataplane.stores.etcd.access import EtcdAccess
from dataplane.stores.etcd.diagnosis import diagnose

log = logging.getLogger(__name__)
Answer = TypeVar("Answer", bound=Message)

largest_message_bytes = 256 << 20
"""gRPC's default of 4 MB ends at some 15,000 leases; one range is one consistent moment, so there are no pages."""

look_s = 10.0  # between two looks at the files with certificates, while all is well
diagnosis_s = 1.0

_unanswered = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
# "revision of auth store is old": users were changed since the token was made.
_token_refused = ("invalid auth token", "revision of auth store is old")


class Unanswered(StoreError):
    """No answer came in time, or the connection broke: a write may have been carried out."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Limits, in seconds.

    Attributes:
        call: an RPC's deadline on one endpoint.
        ping: the same for `ping`, which control allows 3 s.
        keepalive, keepalive_timeout: a connection without traffic is tried this often, and given up after this
            long. etcd ends connections that ask more often than every 5 s (--grpc-keepalive-min-time).
    """

    call: float = 5.0
    ping: float = 1.0
    keepalive: float = 10.0
    keepalive_timeout: float = 5.0


class Client:
    """One node's calls to the cluster. Files of `access` are read now; raises `BadInput` if they cannot be used."""

    def __init__(self, access: EtcdAccess, timing: Timing) -> None:
        self.timing = timing
        self._access = access
        self._papers = tls.read(access)
        self._look_at = time.monotonic() + look_s
        self._unusable = ""
        self._channels: dict[int, grpc.aio.Channel] = {}
        self._current = 0
        self._token: str | None = None

    async def read(self, method: str, request: Message, answer: type[Answer], seconds: float | None = None) -> Answer:
        """Call `method` ("KV/Range") on one endpoint after the other; raises `StoreError` with every failure."""
        failures = []
        for _ in self._access.endpoints:
            try:
                return await self._call(self._current, method, request, answer, seconds or self.timing.call)
            except Unanswered as error:
                failures.append(str(error))
        raise Unanswered("; ".join(failures))

    async def write(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        """Call `method` on the endpoint that answered last; raises `StoreError`, `Unanswered`."""
        return await self._call(self._current, method, request, answer, self.timing.call)

    @asynccontextmanager
    async def watch(self, request: pb.WatchRequest) -> AsyncGenerator[AsyncGenerator[pb.WatchResponse, None], None]:
        """Open a watch and give its answers; the first comes within a deadline, then keep-alives guard the connection.

        Raises:
            StoreError: the connection broke, the server has no leader, or it refuses.
        """
        at = self._current
        await self._look()
        try:
            async with asyncio.timeout(self.timing.call):
                metadata = (*await self._metadata(at), ("hasleader", "true"))
        except TimeoutError:
            raise self._no_answer(at) from None
        method = self._channel(at).stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.WatchResponse.FromString,
        )
        call = method(metadata=metadata)
        answers = self._answers(at, call, request)
        try:
            yield answers
        finally:
            call.cancel()
            await answers.aclose()

    async def _answers(self, at: int, call: Any, request: pb.WatchRequest) -> AsyncGenerator[pb.WatchResponse, None]:
        seconds: float | None = self.timing.call
        try:
            while True:
                async with asyncio.timeout(seconds):
                    if seconds is not None:
                        await call.write(request)
                    answer = await call.read()
                if answer is grpc.aio.EOF:
                    raise await self._error(at, await call.code(), await call.details())
                seconds = None
                yield answer
        except TimeoutError:
            raise self._no_answer(at) from None
        except grpc.aio.AioRpcError as error:
            raise await self._error(at, error.code(), error.details()) from None
        except asyncio.InvalidStateError:
            raise await self._error(at, await call.code(), await call.details()) from None
        except asyncio.CancelledError:
            # gRPC says it like this too when the channel is closed under a call.
            task = asyncio.current_task()
            if task is not None and task.cancelling() == 0:
                raise Unanswered(f"{self._name(at)}: the connection was closed") from None
            raise

    def forget_token(self) -> None:
        """Authenticate anew with the next call."""
        self._token = None

    async def close(self) -> None:
        """Close every channel; calls under way fail."""
        channels = list(self._channels.values())
        self._channels.clear()
        for channel in channels:
            await channel.close()

    async def _call(self, at: int, method: str, request: Message, answer: type[Answer], seconds: float) -> Answer:
        await self._look()
        refused = None
        for _ in range(2):
            metadata = await self._metadata(at, seconds)
            try:
                return await self._invoke(at, method, request, answer, seconds, metadata)
            except _Refused as error:
                if not metadata or not any(text in str(error) for text in _token_refused):
                    raise
                refused = error
                self._token = None
        raise refused or AssertionError

    async def _invoke(
        self, at: int, method: str, request: Message, answer: type[Answer], seconds: float, metadata: Any = ()
    ) -> Answer:
        call = self._channel(at).unary_unary(
            f"/etcdserverpb.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            result: Answer = await call(request, timeout=seconds, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            details = error.details()
            if "permission denied" in (details or "") and (keys := _keys(request)):
                details = f"{details}: the user must be allowed to {keys}"
            raise await self._error(at, error.code(), details) from None
        except grpc.aio.UsageError:
            raise Unanswered(f"{self._name(at)}: the connection was closed") from None
        return result

    async def _metadata(self, at: int, seconds: float | None = None) -> tuple[tuple[str, str], ...]:
        if not self._access.username:
            return ()
        if self._token is None:
            request = pb.AuthenticateRequest(name=self._access.username, password=self._access.password)
            try:
                answer = await self._invoke(
                    at, "Auth/Authenticate", request, pb.AuthenticateResponse, seconds or self.timing.call
                )
            except _Refused as error:
                # A password for a cluster that asks for none: clientv3 goes on without.
                if "authentication is not enabled" not in str(error):
                    raise
                return ()
            self._token = answer.token
        return (("token", self._token),)

    def _channel(self, at: int) -> grpc.aio.Channel:
        if at not in self._channels:
            endpoint = self._access.endpoints[at]
            options = _channel_options(self.timing)
            if endpoint.tls:
                papers = self._papers
                credentials = grpc.ssl_channel_credentials(papers.ca, papers.key, papers.cert)
                self._channels[at] = grpc.aio.secure_channel(endpoint.target, credentials, options)
            else:
                self._channels[at] = grpc.aio.insecure_channel(endpoint.target, options)
        return self._channels[at]

    def _name(self, at: int) -> str:
        return f"etcd at {self._access.endpoints[at].name}"

    def _no_answer(self, at: int) -> Unanswered:
        self._leave(at)
        return Unanswered(f"{self._name(at)}: no answer within {self.timing.call:g} s")

    def _leave(self, at: int) -> None:
        """Let the next call try the next endpoint, unless another call has moved on already."""
        if self._current == at:
            self._current = (at + 1) % len(self._access.endpoints)

    async def _error(self, at: int, code: grpc.StatusCode, details: str | None) -> StoreError:
        if code not in _unanswered:
            return _Refused(f"{self._name(at)}: {printable(details or code.name)}")
        self._leave(at)
        self._look_at = 0.0  # new certificates may be what is missing
        why = ""
        if code == grpc.StatusCode.UNAVAILABLE and "Connection refused" not in (details or ""):
            why = await asyncio.to_thread(diagnose, self._access.endpoints[at], self._papers, diagnosis_s)
        return Unanswered(f"{self._name(at)}: {printable(why or details or code.name)}")

    async def _look(self) -> None:
        """Read the certificates and the key again, now and then and after a failure, and use what is new."""
        if not (self._access.cafile or self._access.certfile) or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + look_s
        try:
            papers = await asyncio.to_thread(tls.read, self._access)
        except BadInput as error:
            # Half of a new pair, mostly: the other half follows.
            if str(error) != self._unusable:
                log.warning("%s; what it was before stays in use", error)
            self._unusable = str(error)
            return
        self._unusable = ""
        if papers == self._papers:
            return
        self._papers = papers
        log.info("there are other certificates or another key for etcd: connecting with them")
        await self.close()


class _Refused(StoreError):
    """etcd answered: no."""


def _keys(request: Message) -> str:
    """Return what a request does to which keys, for people; "" where it is about none."""
    if isinstance(request, pb.RangeRequest):
        every = "every key that begins with " if request.range_end else ""
        return f"read {every}{_text(request.key)}"
    if isinstance(request, pb.TxnRequest):
        written = [operation.request_put.key or operation.request_delete_range.key for operation in request.success]
        read = [compare.key for compare in request.compare]
        return f"write {', '.join(map(_text, written))} and to read {', '.join(dict.fromkeys(map(_text, read)))}"
    return ""


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")


def _channel_options(timing: Timing) -> tuple[tuple[str, Any], ...]:
    keepalive_ms = round(1000 * timing.keepalive)
    return (
        ("grpc.max_receive_message_length", largest_message_bytes),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", round(1000 * timing.keepalive_timeout)),
        # Of pings that gRPC sends for reasons of its own; while one is out, none is sent for keep-alive.
        ("grpc.http2.ping_timeout_ms", round(1000 * timing.keepalive_timeout)),
        # gRPC stops after two pings without data, and a quiet watch has none for hours.
        ("grpc.http2.max_pings_without_data", 0),
        # Two minutes at most by default: a server that is back must be noticed soon.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # Two stores in one process must not share a broken connection.
        ("grpc.use_local_subchannel_pool", 1),
        # The Go client takes no notice of http_proxy either.
        ("grpc.enable_http_proxy", 0),
    )
