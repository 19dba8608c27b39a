"""The daemon needs no package of an extra that is not asked for, and names the extra of one that is."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("extra", "blocked"),
    [("etcd", "grpc"), ("etcd", "google"), ("kube", "lightkube"), ("kube", "httpx2"), ("kube", "yaml")],
)
def test_without_the_extra_the_daemon_loads_and_its_store_is_refused_by_name(extra: str, blocked: str) -> None:
    script = f"""
import sys
sys.modules[{blocked!r}] = None
from types import SimpleNamespace
from dataplane.daemon.open_store import open_store
from dataplane import errors
from dataplane.cli import flags
asked = SimpleNamespace(kube=None, etcd=None)
setattr(asked, {extra!r}, object())
try:
    open_store(asked)
except errors.BadInput as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert f"[{extra}]" in done.stdout and "pip install" in done.stdout


def test_the_embedded_store_loads_none_of_them() -> None:
    script = """
import sys
from dataplane.daemon import run
from dataplane.cli import flags
import dataplane.stores.embedded.store
print(sorted({"grpc", "google.protobuf", "lightkube", "httpx2", "yaml"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
