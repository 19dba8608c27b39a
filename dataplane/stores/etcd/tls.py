"""The certificates and the key for etcd: read from their files, and judged before gRPC gets them.

gRPC takes what cannot work without a word, and then never connects. What must stay true: what `read` returns is what it
judged, whatever happens to the files meanwhile; an error names the flag and the file.
Source: RFC 5280 section 4.1 (where a certificate's dates are), ITU-T X.690 (DER).
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dataplane.errors import BadInput
from dataplane.stores.etcd.access import EtcdAccess

_certificate = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_private_key = re.compile(rb"-----BEGIN ([A-Z]+ )?PRIVATE KEY-----")
_utc_time = 0x17
_version = 0xA0


@dataclass(frozen=True, slots=True)
class Papers:
    """PEM, as the files had it; None for what was not given."""

    ca: bytes | None = None
    key: bytes | None = None
    cert: bytes | None = None

    def context(self) -> ssl.SSLContext:
        """Return what Python's TLS makes of them, as gRPC would connect; raises `ssl.SSLError`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["h2"])
        if self.ca is not None:
            context.load_verify_locations(cadata=self.ca.decode("ascii", "replace"))
        else:
            context.load_default_certs()
        if self.cert is not None and self.key is not None:
            with _as_file(self.cert) as cert, _as_file(self.key) as key:
                context.load_cert_chain(cert, key, password="")
        return context


def read(access: EtcdAccess) -> Papers:
    """Read and judge the files of `access`.

    Raises:
        BadInput: one cannot be read, is no PEM or outside of its dates, or the key is another certificate's.
    """
    papers = Papers(
        _content("etcd-cafile", access.cafile),
        _content("etcd-keyfile", access.keyfile),
        _content("etcd-certfile", access.certfile),
    )
    if papers.ca is not None:
        _judge_dates("etcd-cafile", access.cafile, papers.ca, every=False)
        try:
            Papers(ca=papers.ca).context()
        except ssl.SSLError as error:
            raise BadInput(f"--etcd-cafile {access.cafile}: cannot be used: {_reason(error)}") from error
    if papers.cert is not None and papers.key is not None:
        _judge_dates("etcd-certfile", access.certfile, papers.cert, every=True)
        if not _private_key.search(papers.key):
            raise BadInput(f"--etcd-keyfile {access.keyfile}: holds no private key in PEM form")
        try:
            Papers(key=papers.key, cert=papers.cert).context()
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise BadInput(
                    f"--etcd-keyfile {access.keyfile}: is not the key of the certificate in {access.certfile}"
                ) from error
            raise BadInput(
                f"--etcd-keyfile {access.keyfile} and --etcd-certfile {access.certfile}: cannot be used: "
                f"{_reason(error)}; allowed is an unencrypted key with its certificate, both PEM"
            ) from error
    return papers


def _content(flag: str, name: str) -> bytes | None:
    if not name:
        return None
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise BadInput(f"--{flag} {name}: cannot be read: {error.strerror}") from error


def _judge_dates(flag: str, name: str, content: bytes, *, every: bool) -> None:
    """Raise `BadInput` unless the first certificate (`every`) or any (of a CA file) is good now."""
    texts = _certificate.findall(content)
    if not texts:
        raise BadInput(f"--{flag} {name}: holds no certificate in PEM form")
    faults = [_fault(text) for text in (texts[:1] if every else texts)]
    if all(faults):
        raise BadInput(f"--{flag} {name}: {faults[0]}")


def _fault(pem: bytes) -> str:
    try:
        before, after = validity(ssl.PEM_cert_to_DER_cert(pem.decode("ascii").strip()))
    except (ValueError, IndexError):
        return "its certificate cannot be read"
    now = datetime.now(UTC)
    if now > after:
        return f"its certificate expired on {after:%Y-%m-%d %H:%M:%S} UTC"
    if now < before:
        return f"its certificate is not valid before {before:%Y-%m-%d %H:%M:%S} UTC; is the clock right?"
    return ""


def validity(der: bytes) -> tuple[datetime, datetime]:
    """Return notBefore and notAfter of a certificate; raises ValueError or IndexError where it is none."""
    _, certificate, _ = _element(der, 0)
    _, body, _ = _element(certificate, 0)
    at = 0
    tag, _, after = _element(body, at)
    if tag == _version:
        at = after
    for _ in range(3):  # serial number, signature algorithm, issuer
        _, _, at = _element(body, at)
    _, dates, _ = _element(body, at)
    kind, first, at = _element(dates, 0)
    other, second, _ = _element(dates, at)
    return _time(kind, first), _time(other, second)


def _element(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Return the tag and content of the element at `at`, and where the next one begins."""
    tag, length = data[at], data[at + 1]
    at += 2
    if length & 0x80:
        octets = length & 0x7F
        length = int.from_bytes(data[at : at + octets], "big")
        at += octets
    if at + length > len(data):
        raise ValueError("it ends too early")
    return tag, data[at : at + length], at + length


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _utc_time:  # two digits of the year, from 1950 to 2049
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Give bytes a name for as long as needed: the ssl module loads a key by name only."""
    with open(os.memfd_create("pem"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
