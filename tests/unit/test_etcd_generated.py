"""What `make gen` made of etcd.proto is current, and the daemon needs neither it nor grpcio without etcd."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

import dataplane
from dataplane.stores import etcd_pb2

root = Path(dataplane.__file__).parents[1]


def test_generated_messages_are_those_of_the_proto_file(tmp_path: Path) -> None:
    """Descriptors are compared, not text, which differs between versions of protoc."""
    made = tmp_path / "set"
    words = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(root), f"--descriptor_set_out={made}"]
    subprocess.run([*words, "dataplane/stores/etcd.proto"], check=True, cwd=root)
    (now,) = FileDescriptorSet.FromString(made.read_bytes()).file
    committed = FileDescriptorProto()
    etcd_pb2.DESCRIPTOR.CopyToProto(committed)
    for file in (now, committed):
        for message in file.message_type:
            for field in message.field:
                field.ClearField("json_name")
    assert now == committed, "run: make gen"


@pytest.mark.parametrize("blocked", ["grpc", "google"])
def test_without_the_extra_the_daemon_loads_and_etcd_is_refused_by_name(blocked: str) -> None:
    script = f"""
import sys
sys.modules[{blocked!r}] = None
from types import SimpleNamespace
from dataplane import app, errors
from dataplane.cli import flags
from dataplane.stores.etcd_access import read_access
try:
    app._store(SimpleNamespace(etcd=read_access()))
except errors.BadInput as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "[etcd]" in done.stdout and "pip install" in done.stdout


def test_the_embedded_store_loads_no_grpcio() -> None:
    script = """
import sys
from dataplane import app
from dataplane.cli import flags
import dataplane.stores.local
print("grpc" in sys.modules or "google.protobuf" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
