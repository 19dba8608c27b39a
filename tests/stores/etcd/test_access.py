"""TLS, users, and the forms of --etcd-* values."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.errors import BadInput, StoreError
from dataplane.stores.etcd.access import read_access
from dataplane.stores.etcd.client import Unanswered
from tests.stores.etcd.server import Place, Server, attrs
from tests.stores.loop import run


def require_users(server: Server, *granted: tuple[str, ...]) -> None:
    """Let nobody in but root, and node with these permissions."""
    for words in (
        ("user", "add", "root:secret"),
        ("role", "add", "root"),
        ("user", "grant-role", "root", "root"),
        ("user", "add", "node:word"),
        ("role", "add", "lease"),
        *(("role", "grant-permission", "lease", *words) for words in granted),
        ("user", "grant-role", "node", "lease"),
        ("auth", "enable"),
    ):
        server.ctl(*words)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and server and client certificates that it signed, with their keys."""
    folder = tmp_path_factory.mktemp("tls")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA")
    for name in ("server", "client"):
        (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        openssl("req", *key[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "ext"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    return folder


@pytest.fixture(scope="module")
def tls_server(papers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tls = (
        f"--cert-file={papers}/server.pem",
        f"--key-file={papers}/server.key",
        f"--trusted-ca-file={papers}/ca.pem",
        "--client-cert-auth",
    )
    ctl = (f"--cacert={papers}/ca.pem", f"--cert={papers}/client.pem", f"--key={papers}/client.key")
    with Server(tmp_path_factory.mktemp("tls-etcd"), scheme="https", tls=tls, ctl=ctl) as server:
        yield server


def test_tls_with_client_certificate(tls_server: Server, papers: Path) -> None:
    place = Place(tls_server, "/tls")
    place.configure()

    async def work() -> None:
        files = {"cafile": "ca.pem", "certfile": "client.pem", "keyfile": "client.key"}
        store = place.store(**{name: str(papers / file) for name, file in files.items()})
        try:
            lease = await store.acquire(attrs(1), None)
            assert lease.key in place.raw()
        finally:
            await store.close()

    run(work())


@pytest.mark.parametrize("files", [{}, {"cafile": "ca.pem"}])
def test_tls_without_what_it_needs_is_a_store_error(tls_server: Server, papers: Path, files: dict[str, str]) -> None:
    async def work() -> None:
        store = Place(tls_server, "/tls").store(**{name: str(papers / file) for name, file in files.items()})
        try:
            with pytest.raises(StoreError):
                await store.ping()
        finally:
            await store.close()

    run(work())


def test_user_and_password_and_a_new_token_after_a_restart(own_server: Server) -> None:
    place = Place(own_server, "/auth")
    place.configure()
    require_users(own_server, ("--prefix=true", "readwrite", "/auth"))
    own_server._ctl = ("--user=root:secret",)

    async def refused(**access: str) -> str:
        store = place.store(**access)
        try:
            with pytest.raises(StoreError) as error:
                await store.ping()
        finally:
            await store.close()
        return str(error.value)

    async def work() -> None:
        assert "user name is empty" in await refused()
        assert "authentication failed" in await refused(username="node", password="wrong")
        store = place.store(username="node", password="word")
        try:
            lease = await store.acquire(attrs(1), None)
            own_server.kill()
            own_server.start()
            renewed = None
            while renewed is None:
                # The channel finds the new server after its pause; the token of the old one is then refused.
                try:
                    renewed = await store.renew(lease)
                except Unanswered:
                    continue
            assert renewed.key == lease.key
            events = store.watch()
            await anext(events)
            await events.aclose()
        finally:
            await store.close()

    run(work())


def test_a_missing_right_names_the_keys(own_server: Server) -> None:
    place = Place(own_server, "/auth")
    place.configure()
    require_users(own_server)
    own_server._ctl = ("--user=root:secret",)

    def grant(right: str, *key: str) -> None:
        own_server.ctl("role", "grant-permission", "lease", right, *key)

    async def work() -> None:
        store = place.store(username="node", password="word")
        try:
            with pytest.raises(StoreError, match="permission denied: the user must be allowed to read /auth/config$"):
                await store.read_config()
            grant("read", "/auth/config")
            with pytest.raises(StoreError, match="to read every key that begins with /auth/subnets"):
                await store.acquire(attrs(1), None)
            grant("read", "--prefix=true", "/auth/subnets")
            with pytest.raises(StoreError, match=r"to write /auth/subnets/10\.5\.\d+\.0-24 and to read /auth/config"):
                await store.acquire(attrs(1), None)
        finally:
            await store.close()

    run(work())


def test_user_where_the_cluster_asks_for_none(place: Place) -> None:
    async def work() -> None:
        store = place.store(username="node", password="word")
        try:
            await store.ping()
        finally:
            await store.close()

    run(work())


@pytest.mark.parametrize(
    ("text", "target", "tls"),
    [
        ("http://192.0.2.1:2379", "192.0.2.1:2379", False),
        ("https://etcd.example:2379/", "etcd.example:2379", True),
        ("http://[fd00::1]:2379", "[fd00::1]:2379", False),
        ("192.0.2.1:2379", "192.0.2.1:2379", False),
        ("unix:///run/etcd.sock", "unix:/run/etcd.sock", False),
    ],
)
def test_endpoint_forms(text: str, target: str, tls: bool) -> None:
    (endpoint,) = read_access(text).endpoints
    assert (endpoint.target, endpoint.tls) == (target, tls)


def test_address_without_a_scheme_is_tls_if_there_are_files_for_it() -> None:
    assert read_access("192.0.2.1:2379", cafile="/ca.pem").endpoints[0].tls


@pytest.mark.parametrize(
    "text", ["", " , ", "ftp://a:1", "http://a", "http://a:b", "http://:1", "http://a:1/x", "unix://a", "http://u@a:1"]
)
def test_wrong_endpoints_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(BadInput, match="--etcd-endpoints.*allowed are"):
        read_access(text)


def test_half_a_pair_is_refused() -> None:
    with pytest.raises(BadInput, match="--etcd-certfile"):
        read_access(certfile="/c.pem")
    with pytest.raises(BadInput, match="--etcd-username"):
        read_access(password="x")


def test_password_is_not_shown_and_prefix_is_cleaned() -> None:
    access = read_access(prefix="/a//b/", username="u", password="hidden-word")
    assert "hidden-word" not in repr(access)
    assert access.prefix == "/a/b"
