"""What a kubeconfig or the environment asks for in vain is refused by name; what does not concern us passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lightkube.config.client_adapter import user_auth
from lightkube.config.kubeconfig import KubeConfig

from dataplane.errors import BadInput
from dataplane.stores.kube.unsupported import refuse_members, refuse_proxy

server = "https://api.example.org:6443"
plugin = {
    "apiVersion": "client.authentication.k8s.io/v1",
    "command": "aws-iam-authenticator",
    "args": ["token"],
    "interactiveMode": "Never",
}


def kubeconfig(user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None) -> Any:
    """As YAML has it, with a second context whose entries have everything that is refused."""
    everything = {"exec": plugin, "as": "admin"}
    document = {
        "current-context": "here",
        "contexts": [
            {"name": "there", "context": {"cluster": "other", "user": "another"}},
            {"name": "here", "context": {"cluster": "ours", "user": "node"}},
        ],
        "clusters": [
            {"name": "other", "cluster": {"server": server, "proxy-url": "http://proxy:3128"}},
            {"name": "ours", "cluster": {"server": server, **(cluster or {})}},
        ],
        "users": [{"name": "another", "user": everything}, {"name": "node", "user": user or {"token": "t"}}],
    }
    return yaml.safe_load(yaml.safe_dump(document))


@pytest.mark.parametrize(
    ("user", "cluster", "said"),
    [
        ({"exec": plugin}, {}, "user 'node' has exec (aws-iam-authenticator): exec plugins are not run; allowed are"),
        ({"auth-provider": {"name": "oidc"}}, {}, "user 'node' has auth-provider: "),
        ({"token": "t", "as": "system:node:a"}, {}, "user 'node' has as: impersonation is not supported"),
        ({"token": "t", "as-groups": ["admins"]}, {}, "user 'node' has as-groups: "),
        (
            {},
            {"proxy-url": "http://joe:secret@proxy.example.org:3128"},
            "cluster 'ours' has proxy-url: proxies are not",
        ),
        ({}, {"tls-server-name": "kubernetes"}, "cluster 'ours' has tls-server-name: "),
    ],
)
def test_what_changes_requests_is_refused_by_name(user: dict[str, Any], cluster: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        refuse_members(kubeconfig(user, cluster))
    assert str(refused.value).startswith(said)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "user",
    [
        {"token": "t"},
        {"tokenFile": "/run/token"},
        {"client-certificate": "/a", "client-key": "/b"},
        {"client-certificate-data": "QQ==", "client-key-data": "QQ=="},
        {"username": "u", "password": "p"},
        {"exec": None, "token": "t"},
    ],
)
def test_other_credentials_pass_whatever_other_contexts_have(user: dict[str, Any]) -> None:
    refuse_members(kubeconfig(user, {"certificate-authority": "/ca", "insecure-skip-tls-verify": False}))


@pytest.mark.parametrize(
    "document",
    [None, [], "text", {}, {"current-context": "a"}, {"current-context": "a", "contexts": [1]}, {"contexts": {}}],
)
def test_a_document_of_another_form_is_for_the_next_to_refuse(document: object) -> None:
    refuse_members(document)


def test_the_library_would_drop_what_is_refused_here(tmp_path: Path) -> None:
    """When lightkube comes to know one of these, it need not be refused any more."""
    cluster = {"proxy-url": "http://proxy:3128", "tls-server-name": "kubernetes"}
    config = KubeConfig.from_dict(kubeconfig({"exec": plugin, "as": "admin"}, cluster), fname=tmp_path / "c").get()
    assert config is not None and config.user is not None
    known = {*config.cluster.__struct_encode_fields__, *config.user.__struct_encode_fields__}
    assert not known & {"proxy-url", "tls-server-name", "as", "as-groups", "as-uid", "as-user-extra"}
    flow = user_auth(config.user)
    assert flow is not None
    with pytest.raises(Exception, match=r"client.authentication.k8s.io/v1 not implemented"):
        flow._prepare()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, server),
        ({"HTTP_PROXY": "http://proxy:3128"}, server),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "http://api.example.org:8080"),
        ({"HTTPS_PROXY": ""}, server),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https:///"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https://localhost:6443"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https://127.0.0.1:6443"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https://[::1]:6443"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, server),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "a, example.org"}, server),
        ({"HTTPS_PROXY": "http://proxy:3128", "no_proxy": "API.example.org"}, server),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".example.org"}, server),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*.example.org"}, server),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "api.example.org:6443"}, server),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "10.96.0.0/12"}, "https://10.96.0.1:443"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "10.96.0.1:443"}, "https://10.96.0.1"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "fd00:10:96::/112"}, "https://[fd00:10:96::1]:443"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "[fd00:10:96::1]:443"}, "https://[fd00:10:96::1]:443"),
    ],
)
def test_a_proxy_that_is_for_others_passes(environment: dict[str, str], url: str) -> None:
    refuse_proxy(url, environment)


@pytest.mark.parametrize(
    ("environment", "url", "said"),
    [
        (
            {"HTTPS_PROXY": "http://joe:secret@proxy:3128"},
            server,
            "HTTPS_PROXY is proxy, and https://api.example.org:6443",
        ),
        ({"https_proxy": "proxy:3128"}, server, "https_proxy is proxy"),
        ({"HTTP_PROXY": "http://proxy:3128"}, "http://10.0.0.1:8080", "HTTP_PROXY is proxy"),
        ({"HTTPS_PROXY": "http://proxy", "NO_PROXY": "example.com,ample.org"}, server, "HTTPS_PROXY is"),
        ({"HTTPS_PROXY": "http://proxy", "NO_PROXY": ".api.example.org"}, server, "HTTPS_PROXY is"),
        ({"HTTPS_PROXY": "http://proxy", "NO_PROXY": "api.example.org:443"}, server, "HTTPS_PROXY is"),
        (
            {"HTTPS_PROXY": "http://proxy", "NO_PROXY": "10.0.0.0/8,192.0.2.1:443"},
            "https://192.0.2.1:6443",
            "HTTPS_PROXY",
        ),
        ({"HTTPS_PROXY": "http://proxy", "NO_PROXY": "0.2.1"}, "https://192.0.2.1:6443", "HTTPS_PROXY is"),
    ],
)
def test_a_proxy_for_us_is_refused_by_name(environment: dict[str, str], url: str, said: str) -> None:
    with pytest.raises(BadInput) as refused:
        refuse_proxy(url, environment)
    assert str(refused.value).startswith(said)
    assert "secret" not in str(refused.value)
    assert "NO_PROXY" in str(refused.value) or "no_proxy" in str(refused.value)
