"""What `make gen` made of etcd.proto is current."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

import dataplane
from dataplane.stores.etcd import etcd_pb2
from tests import root



def test_generated_messages_are_those_of_the_proto_file(tmp_path: Path) -> None:
    """Descriptors are compared, not text, which differs between versions of protoc."""
    made = tmp_path / "set"
    words = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(root), f"--descriptor_set_out={made}"]
    subprocess.run([*words, "dataplane/stores/etcd/etcd.proto"], check=True, cwd=root)
    (now,) = FileDescriptorSet.FromString(made.read_bytes()).file
    committed = FileDescriptorProto()
    etcd_pb2.DESCRIPTOR.CopyToProto(committed)
    for file in (now, committed):
        for message in file.message_type:
            for field in message.field:
                field.ClearField("json_name")
    assert now == committed, "run: make gen"
