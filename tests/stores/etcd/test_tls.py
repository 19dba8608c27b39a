"""Certificates: what is wrong with them is said, at start and later; new ones on disk are taken up."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.errors import BadInput, StoreError
from dataplane.stores.etcd.access import read_access
from dataplane.stores.etcd.tls import read
from tests.stores.etcd.server import Place, Server
from tests.stores.loop import run


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def make_ca(folder: Path, name: str) -> None:
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    openssl(folder, *words, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")


def sign(folder: Path, name: str, ca: str = "ca", ip: str = "127.0.0.1", dates: tuple[str, str] | None = None) -> None:
    """Make `name`.pem and .key; `dates` as openssl's ca takes them."""
    (folder / "ext").write_text(f"subjectAltName=IP:{ip}\nextendedKeyUsage=serverAuth,clientAuth\n")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(folder, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    if dates is None:
        signed = ["-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial", "-days", "2", "-extfile", "ext"]
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
        return
    (folder / "index").write_text("")
    (folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca=c\n[c]\ndatabase=index\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\nrand_serial=yes\n"
        "[p]\ncommonName=supplied\n"
    )
    words = ["-config", "ca.cnf", "-cert", f"{ca}.pem", "-keyfile", f"{ca}.key", "-extfile", "ext", "-notext", "-batch"]
    when = ["-startdate", dates[0], "-enddate", dates[1]]
    openssl(folder, "ca", *words, *when, "-in", f"{name}.csr", "-out", f"{name}.pem")


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("papers")
    for name in ("ca", "other-ca"):
        make_ca(folder, name)
    sign(folder, "server")
    sign(folder, "misnamed", ip="192.0.2.1")
    sign(folder, "old-server", dates=("20200101000000Z", "20210101000000Z"))
    sign(folder, "client")
    sign(folder, "stranger", ca="other-ca")
    sign(folder, "expired", dates=("20200101000000Z", "20210101000000Z"))
    sign(folder, "early", dates=("20490101000000Z", "20510101000000Z"))
    (folder / "text.pem").write_text("no certificate\n")
    return folder


def server_of(folder: Path, papers: Path, name: str, *, mutual: bool = True) -> Server:
    tls = [f"--cert-file={papers}/{name}.pem", f"--key-file={papers}/{name}.key"]
    if mutual:
        tls += [f"--trusted-ca-file={papers}/ca.pem", "--client-cert-auth"]
    ctl = ("--insecure-skip-tls-verify", f"--cert={papers}/client.pem", f"--key={papers}/client.key")
    return Server(folder, scheme="https", tls=tuple(tls), ctl=ctl)


@pytest.fixture(scope="module")
def tls_server(papers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server_of(tmp_path_factory.mktemp("server"), papers, "server") as server:
        yield server


def files(papers: Path, client: str = "", ca: str = "ca") -> dict[str, str]:
    pair = {"certfile": f"{papers}/{client}.pem", "keyfile": f"{papers}/{client}.key"} if client else {}
    return {"cafile": f"{papers}/{ca}.pem", **pair} if ca else pair


async def refusal(place: Place, endpoints: str = "", **access: str) -> str:
    store = place.store(endpoints=endpoints, **access)
    try:
        with pytest.raises(StoreError) as error:
            await store.ping()
    finally:
        await store.close()
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


@pytest.mark.parametrize(
    ("client", "ca", "says"),
    [
        ("", "ca", "it wants a client certificate (--etcd-certfile and --etcd-keyfile)"),
        ("stranger", "ca", "our client certificate"),
        ("client", "other-ca", "the server's certificate is not trusted by --etcd-cafile"),
        ("client", "", "the server's certificate is not trusted by the system's CAs; --etcd-cafile names another"),
    ],
)
def test_the_cause_of_a_failed_handshake_is_named(
    tls_server: Server, papers: Path, client: str, ca: str, says: str
) -> None:
    text = run(refusal(Place(tls_server, "/x"), **files(papers, client, ca)))
    assert text.startswith(f"etcd at {tls_server.url}: ") and says in text


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("misnamed", "the server's certificate is not for 127.0.0.1"),
        ("old-server", "the server's certificate has expired"),
    ],
)
def test_what_is_wrong_with_the_server_s_certificate_is_named(
    tmp_path: Path, papers: Path, name: str, says: str
) -> None:
    with server_of(tmp_path, papers, name) as server:
        assert says in run(refusal(Place(server, "/x"), **files(papers, "client")))


def test_plain_against_tls_and_tls_against_plain_are_named(tls_server: Server, server: Server, papers: Path) -> None:
    plain = tls_server.url.replace("https", "http")
    assert "the server speaks TLS; allowed is https://" in run(refusal(Place(tls_server, "/x"), plain))
    tls = server.url.replace("http", "https")
    assert "the server speaks no TLS; allowed is http://" in run(refusal(Place(server, "/x"), tls, **files(papers)))


def test_nothing_but_ours_is_written_to_standard_error(tls_server: Server, papers: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from dataplane.stores.etcd.store import EtcdStore\n"
        "from dataplane.stores.etcd.access import read_access\n"
        "from dataplane.errors import StoreError\n"
        "async def main():\n"
        "    store = EtcdStore(read_access(sys.argv[1], cafile=sys.argv[2]))\n"
        "    try:\n"
        "        await store.ping()\n"
        "    except StoreError as error:\n"
        "        print(error)\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    words = [sys.executable, "-c", program, tls_server.url, f"{papers}/ca.pem"]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=200)
    assert "client certificate" in done.stdout and done.stderr == ""


@pytest.mark.parametrize(
    ("ca", "cert", "key", "says"),
    [
        ("ca.pem", "client.pem", "server.key", "--etcd-keyfile {0}/server.key: is not the key of the certificate"),
        ("text.pem", "client.pem", "client.key", "--etcd-cafile {0}/text.pem: holds no certificate in PEM form"),
        ("ca.pem", "text.pem", "client.key", "--etcd-certfile {0}/text.pem: holds no certificate in PEM form"),
        ("ca.pem", "client.pem", "text.pem", "--etcd-keyfile {0}/text.pem: holds no private key in PEM form"),
        (
            "ca.pem",
            "expired.pem",
            "expired.key",
            "--etcd-certfile {0}/expired.pem: its certificate expired on 2021-01-01",
        ),
        (
            "ca.pem",
            "early.pem",
            "early.key",
            "--etcd-certfile {0}/early.pem: its certificate is not valid before 2049-01",
        ),
        ("none.pem", "client.pem", "client.key", "--etcd-cafile {0}/none.pem: cannot be read: No such file"),
    ],
)
def test_files_that_cannot_work_are_refused_at_start(papers: Path, ca: str, cert: str, key: str, says: str) -> None:
    access = read_access(
        "https://127.0.0.1:2379", cafile=f"{papers}/{ca}", certfile=f"{papers}/{cert}", keyfile=f"{papers}/{key}"
    )
    with pytest.raises(BadInput) as error:
        read(access)
    assert says.format(papers) in str(error.value)


def test_new_certificates_are_taken_up_also_while_etcd_is_away(
    tmp_path: Path, papers: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From a CA that etcd does not know to the right one; half of the new pair changes nothing."""
    for name in ("ca.pem", "client.pem", "client.key"):
        shutil.copy(papers / name.replace("client", "stranger"), tmp_path / name)
    etcd = tmp_path / "etcd"
    etcd.mkdir()
    with server_of(etcd, papers, "server") as server:
        place = Place(server, "/x")

        async def work() -> None:
            store = place.store(**files(tmp_path, "client"))
            try:
                with pytest.raises(StoreError, match="our client certificate"):
                    await store.ping()
                server.kill()
                shutil.copy(papers / "client.pem", tmp_path / "client.pem")
                with caplog.at_level(logging.WARNING), pytest.raises(StoreError):
                    await store.ping()
                assert "client.key: is not the key of the certificate" in caplog.text
                shutil.copy(papers / "client.key", tmp_path / "client.key")
                server.start()
                while True:
                    try:
                        await store.ping()
                        return
                    except StoreError:
                        continue
            finally:
                await store.close()

        run(work())
