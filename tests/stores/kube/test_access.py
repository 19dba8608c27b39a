"""Rights and names: what is missing or wrong is named as whoever can repair it calls it."""

from __future__ import annotations

from contextlib import aclosing
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from dataplane.errors import BadInput, StoreError
from dataplane.stores.kube.access import read_access, read_prefix
from tests.apiserver.access import Rule
from tests.apiserver.process import Server, service_account
from tests.stores.kube.own_node import acquire, flannels
from tests.stores.kube.places import annotations, store_of
from tests.stores.loop import run


def test_who_may_not_patch_is_told_so(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "server"
    directory.mkdir()
    rules = {service_account: (Rule(("",), ("nodes",), ("get", "list", "watch")),)}
    with Server(directory, rules=rules) as server:
        server.add_node(name, "10.244.7.0/24")
        with pytest.raises(
            StoreError,
            match=f'User "{service_account}" cannot patch resource "nodes/status".*allow to patch nodes/status$',
        ):
            acquire(store_of(server, name, tmp_path))


@pytest.mark.parametrize(
    ("verbs", "right"), [((), "get nodes"), (("get",), "list nodes"), (("get", "list"), "watch nodes")]
)
def test_a_missing_right_is_named_as_a_role_gives_it(
    tmp_path: Path, name: str, verbs: tuple[str, ...], right: str
) -> None:
    directory = tmp_path / "server"
    directory.mkdir()
    with Server(directory, rules={service_account: (Rule(("",), ("nodes",), verbs),)}) as server:
        server.add_node(name, "10.244.7.0/24")

        async def work() -> None:
            store = store_of(server, name, tmp_path)
            try:
                await store.addresses()
                async with aclosing(store.watch()) as events:
                    async for _ in events:
                        pass
            finally:
                await store.close()

        with pytest.raises(StoreError, match=f"; our ClusterRole must allow to {right}$"):
            run(work())


def test_a_pod_knows_its_node(server: Server, name: str, tmp_path: Path) -> None:
    # The rule for pods is not among the usual ones.
    directory = tmp_path / "server"
    directory.mkdir()
    rules = {service_account: (Rule(("",), ("nodes", "pods"), ("get",)), Rule(("",), ("nodes/status",), ("patch",)))}
    with Server(directory, rules=rules) as own:
        own.add_node(name, "10.244.7.0/24")
        own.add_pod("kube-flannel", "flannel-abc", name)
        store = store_of(own, "", tmp_path, pod_namespace="kube-flannel", pod_name="flannel-abc")
        assert acquire(store).subnet == IPv4Network("10.244.7.0/24")
        assert annotations(own, name) == flannels


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "it is no kubeconfig"),
        ("a: b", "it is no kubeconfig"),
        (":::", "it is no kubeconfig"),
        ('{"clusters":[],"contexts":[],"users":[]}', "No current context"),
        ("SERVER nonsense://", "server 'nonsense://' is no URL"),
        ("CA /nowhere/ca.crt", "a certificate or key that it names: No such file"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named(server: Server, tmp_path: Path, text: str, error: str) -> None:
    path = server.kubeconfig(tmp_path / "kubeconfig")
    match text.split():
        case ["SERVER", url]:
            path.write_text(path.read_text().replace(server.url, url))
        case ["CA", file]:
            path.write_text(path.read_text().replace(str(server.certificate), file))
        case _:
            path.write_text(text)
    with pytest.raises(BadInput, match=error) as caught:
        store_of(server, "us", tmp_path, kubeconfig=path)
    assert f"--kubeconfig-file {path}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/backend-type"),
        ("org.com", "org.com/backend-type"),
        ("org.com/", "org.com/backend-type"),
        ("org.com/9", "org.com/9-backend-type"),
        ("org.com/9-", "org.com/9-backend-type"),
        ("org.com/our_word", "org.com/our_word-backend-type"),
        ("sub.org.com/a-b", "sub.org.com/a-b-backend-type"),
    ],
)
def test_a_prefix_becomes_names(text: str, name: str) -> None:
    assert read_prefix(text) + "backend-type" == name


@pytest.mark.parametrize(
    "text", ["", "org", "org/word", "org.com/a/b", "Org.com", "org.com/A", "org..com", "/x", "org.com/a b"]
)
def test_a_wrong_prefix_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--kube-annotation-prefix"):
        read_prefix(text)


def test_without_a_node_there_is_no_access() -> None:
    with pytest.raises(BadInput, match="env variables POD_NAME and POD_NAMESPACE must be set"):
        read_access({"POD_NAME": "x"})
    with pytest.raises(BadInput, match="NODE_NAME is '../x'"):
        read_access({"NODE_NAME": "../x"})
    with pytest.raises(BadInput, match="--kube-api-url 'example:6443' is no URL"):
        read_access({"NODE_NAME": "n"}, api_url="example:6443")
    access = read_access({"POD_NAME": "p", "POD_NAMESPACE": "kube-flannel"}, prefix="org.com/9")
    assert (access.node_name, access.pod_name, access.prefix) == ("", "p", "org.com/9-")
