"""Connections that answer nothing, and credentials that are not taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplane.errors import StoreError
from dataplane.model import Snapshot
from tests.apiserver.process import Server
from tests.stores.kube.places import held, started, store_of
from tests.stores.loop import run


def test_a_frozen_server_fails_the_watch_and_the_ping(own_server: Server, tmp_path: Path) -> None:
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store, own = await started(server, tmp_path)
        events = store.watch()
        await anext(events)
        server.freeze()
        with pytest.raises(StoreError, match="nothing came for 6 s, not even the bookmark"):
            await anext(events)
        with pytest.raises(StoreError, match="nothing came for 6 s"):
            await store.ping()
        server.thaw()
        events = store.watch()
        again = await anext(events)
        assert isinstance(again, Snapshot)
        assert held(*again.leases) == held(own)
        await events.aclose()
        await store.close()

    run(work())


def test_an_unknown_token_is_refused_until_the_file_has_a_new_one(own_server: Server, tmp_path: Path) -> None:
    server = own_server
    server.add_node("us", "10.244.1.0/24")
    kubeconfig = server.kubeconfig(tmp_path / "kubeconfig")

    async def work() -> None:
        store = store_of(server, "us", tmp_path, kubeconfig=kubeconfig)
        await store.addresses()
        server.replace_token("another")
        store = store_of(server, "us", tmp_path, kubeconfig=kubeconfig)
        with pytest.raises(StoreError, match="401: Unauthorized"):
            await store.addresses()
        server.kubeconfig(kubeconfig, "another")
        await store.addresses()
        await store.close()

    run(work())


def test_a_certificate_that_is_not_trusted(own_server: Server, tmp_path: Path) -> None:
    server = own_server
    other = tmp_path / "other"
    other.mkdir()
    kubeconfig = server.kubeconfig(tmp_path / "kubeconfig")
    text = kubeconfig.read_text().replace(str(server.certificate), str(Server(other).certificate))
    kubeconfig.write_text(text)
    with pytest.raises(StoreError, match="CERTIFICATE_VERIFY_FAILED"):
        run(store_of(server, "us", tmp_path, kubeconfig=kubeconfig).addresses())
