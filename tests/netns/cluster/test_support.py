"""`dataplane support` on a node: what is in the archive, and what is not."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

from tests.lab_fixtures import MakeLab


def test_an_archive_of_a_running_node(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab("vxlan", "dataplane", "dataplane", ipv6=False)
    node = lab.daemons[0]
    node.stop_daemon()
    node.start_daemon("--etcd-password=in-the-flags", environment={"FLANNELD_ETCD_PASSWORD": "in-the-environment"})
    node.wait_ready()
    path = tmp_path / "node1.tar.gz"
    words = (sys.executable, "-m", "dataplane", "support", f"--output={path}", f"--run-dir={node.run_dir}")
    said = node.run(*words).stdout
    assert f"wrote {path}" in said and "firewall/nft" in said
    with tarfile.open(path) as archive:
        texts = {}
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None and member.mode == 0o600
            texts[member.name.removeprefix("node1/")] = file.read().decode()
    assert str(node.pod_net().ipv4) in texts["status.json"] and "dataplane is ready" in texts["status.txt"]
    assert "flannel.1" in texts["network/links"] and "OK" in texts["doctor.txt"]
    assert "--etcd-password=[taken out]" in texts["daemon/command"]
    assert "FLANNELD_ETCD_PASSWORD=[taken out]" in texts["daemon/environment"]
    assert not any("in-the-" in text for text in texts.values())
    assert node.run(*words, check=False).returncode == 1
