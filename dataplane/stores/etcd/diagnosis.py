"""Why a server of etcd cannot be talked to: one connection of our own, since gRPC says no more than "Socket closed".

What must stay true: it ends within its limit, sends nothing but the beginning of a connection, and says nothing where
it does not know.
Sources: RFC 9113 section 3.4 (the preface), RFC 8446 section 6.2 (alerts; one about our certificate comes with the first read).
"""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import suppress

from dataplane.stores.etcd.access import Endpoint
from dataplane.stores.etcd.tls import Papers

_preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # with empty SETTINGS
_settings = 0x04
_about_our_certificate = {
    "CERTIFICATE_REQUIRED": "it wants a client certificate",
    "BAD_CERTIFICATE": "it refuses our client certificate",
    "UNKNOWN_CA": "it does not know the CA that signed our client certificate",
    "CERTIFICATE_EXPIRED": "our client certificate has expired",
    "CERTIFICATE_REVOKED": "our client certificate was revoked",
    "CERTIFICATE_UNKNOWN": "it refuses our client certificate",
    "UNSUPPORTED_CERTIFICATE": "our client certificate is not one for clients",
    "ACCESS_DENIED": "it refuses our client certificate",
}
_no_tls = "the server speaks no TLS; allowed is http:// in --etcd-endpoints"


def diagnose(endpoint: Endpoint, papers: Papers, limit_s: float) -> str:
    """Return what keeps us from a connection, for people; "" if that is not to be seen. Blocks up to `limit_s`."""
    deadline = time.monotonic() + limit_s
    try:
        if not endpoint.tls:
            return _diagnose_plain(endpoint, deadline)
        return _diagnose_tls(endpoint, papers, deadline)
    except (OSError, ValueError):
        return ""


def _diagnose_plain(endpoint: Endpoint, deadline: float) -> str:
    if endpoint.target.startswith("unix:") or not _answers_tls(endpoint, deadline):
        return ""
    return "the server speaks TLS; allowed is https:// in --etcd-endpoints"


def _answers_tls(endpoint: Endpoint, deadline: float) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with _connect(endpoint, deadline) as plain, context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")


def _diagnose_tls(endpoint: Endpoint, papers: Papers, deadline: float) -> str:
    context = papers.context()
    name = endpoint.target.rpartition(":")[0].strip("[]")
    try:
        with (
            _connect(endpoint, deadline) as plain,
            context.wrap_socket(plain, server_hostname=name, suppress_ragged_eofs=False) as stream,
        ):
            # Nothing is sent: a server that closes with something unread resets the connection, and its alert is lost.
            stream.settimeout(_left(deadline))
            stream.recv(1)
            return ""
    except TimeoutError:
        raise  # it has nothing to say against us
    except ssl.SSLCertVerificationError as error:
        return _of_server(error, name, papers)
    except ssl.SSLError as error:
        reason = error.reason or ""
        _, _, alert = reason.partition("ALERT_")
        if alert in _about_our_certificate:
            text = _about_our_certificate["CERTIFICATE_REQUIRED" if papers.cert is None else alert]
            return f"{text} (--etcd-certfile and --etcd-keyfile)"
        if alert:
            return f"TLS is refused: {alert.replace('_', ' ').lower()}"
        return _no_tls if _speaks_plain(endpoint, deadline) else ""
    except OSError:
        return _no_tls if _speaks_plain(endpoint, deadline) else ""


def _of_server(error: ssl.SSLCertVerificationError, name: str, papers: Papers) -> str:
    text = error.verify_message
    if "mismatch" in text.lower():
        return f"the server's certificate is not for {name}"
    if text in ("certificate has expired", "certificate is not yet valid"):
        return f"the server's {text}"
    source = "--etcd-cafile" if papers.ca is not None else "the system's CAs; --etcd-cafile names another"
    return f"the server's certificate is not trusted by {source}: {text}"


def _speaks_plain(endpoint: Endpoint, deadline: float) -> bool:
    """Whether the server answers the preface with a SETTINGS frame."""
    with suppress(OSError), _connect(endpoint, deadline) as plain:
        plain.sendall(_preface)
        head = b""
        while len(head) < 4 and (data := plain.recv(64)):
            head += data
        return head[3:4] == bytes([_settings])
    return False


def _connect(endpoint: Endpoint, deadline: float) -> socket.socket:
    host, _, port = endpoint.target.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), _left(deadline))


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.01)
