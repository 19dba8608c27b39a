"""The chart rendered by helm, and documents looked at as Kubernetes would look at them.

What must stay true: a field that Kubernetes does not know, or of another type, is refused here, as the API server would
refuse it under strict validation.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
from functools import cache
from typing import Any

import msgspec
import yaml

from dataplane.cli import flags, install_cni, run, settings
from dataplane.daemon.options import Options
from tests import root

Document = dict[str, Any]

helm = root / "build/tools/helm"
chart = root / "deploy/helm/dataplane"
_modules = {"v1": "core_v1", "apps/v1": "apps_v1", "rbac.authorization.k8s.io/v1": "rbac_authorization_v1"}


@cache
def template(*values: str) -> subprocess.CompletedProcess[str]:
    """Run `helm template` with --set-json for each of `values` ("flannel.vni=5")."""
    given = [word for value in values for word in ("--set-json", value)]
    words = [str(helm), "template", "dataplane", str(chart), "--namespace", "flannel-dataplane", *given]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def render(*values: str) -> dict[str, Document]:
    """Return the rendered documents by kind."""
    done = template(*values)
    assert done.returncode == 0, done.stderr
    return by_kind(done.stdout)


def by_kind(text: str) -> dict[str, Document]:
    documents = [document for document in yaml.safe_load_all(text) if document]
    found = {document["kind"]: document for document in documents}
    assert len(found) == len(documents)
    return found


def check_model(document: Document) -> None:
    """Refuse unknown fields and wrong types, by the generated models of lightkube; raises msgspec's error."""
    module = importlib.import_module(f"lightkube.resources.{_modules[document['apiVersion']]}")
    read = msgspec.to_builtins(msgspec.convert(document, getattr(module, document["kind"])))
    assert _without_nulls(read) == document, "a field is not known to Kubernetes"


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def pod_spec(documents: dict[str, Document]) -> Document:
    spec: Document = documents["DaemonSet"]["spec"]["template"]["spec"]
    return spec


def daemon(documents: dict[str, Document]) -> Document:
    (container,) = pod_spec(documents)["containers"]
    assert isinstance(container, dict)
    return container


def installer(documents: dict[str, Document]) -> Document:
    (container,) = pod_spec(documents)["initContainers"]
    assert isinstance(container, dict)
    return container


def options(container: Document) -> Options:
    """Read a container's arguments and environment as the daemon does; a wrong one ends the test (exit code 2)."""
    parser = argparse.ArgumentParser(prog="dataplane run", allow_abbrev=False)
    flags.add_flags(parser)
    # Of the downward API we need one value, whatever it is.
    environment = {variable["name"]: variable.get("value", "node-1") for variable in container["env"]}
    return settings.options(parser, parser.parse_args(run.prepare(container["args"])), environment)


def install_options(container: Document) -> argparse.Namespace:
    """Read the init container's arguments as `dataplane install-cni` does."""
    parser = argparse.ArgumentParser()
    install_cni.add_parser(parser.add_subparsers())
    return parser.parse_args([*container["command"][1:], *container["args"]])
