"""subnet.env: exact bytes, replacement in one step, and a reader that never stumbles over content."""

from __future__ import annotations

import os
import tempfile
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.errors import HostError
from dataplane.flannel.subnet_env import SubnetEnv
from dataplane.keepers import subnet_file

dual = SubnetEnv(
    IPv4Network("10.5.0.0/16"),
    IPv4Network("10.5.72.0/24"),
    IPv6Network("2001:cafe:42::/56"),
    IPv6Network("2001:cafe:42::/64"),
    1450,
    True,
)


def test_exact_text_of_a_dual_stack_file(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    subnet_file.write(path, dual)
    assert path.read_text() == (
        "FLANNEL_NETWORK=10.5.0.0/16\n"
        "FLANNEL_SUBNET=10.5.72.1/24\n"
        "FLANNEL_IPV6_NETWORK=2001:cafe:42::/56\n"
        "FLANNEL_IPV6_SUBNET=2001:cafe:42::1/64\n"
        "FLANNEL_MTU=1450\n"
        "FLANNEL_IPMASQ=true\n"
    )
    assert subnet_file.read(path) == dual


def test_one_family_only(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    subnet_file.write(path, SubnetEnv(network=dual.network, subnet=dual.subnet, mtu=1472))
    assert path.read_text() == (
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"
    )
    subnet_file.write(path, SubnetEnv(ipv6_network=dual.ipv6_network, ipv6_subnet=dual.ipv6_subnet, mtu=1430))
    assert path.read_text().splitlines()[0] == "FLANNEL_IPV6_NETWORK=2001:cafe:42::/56"


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "run" / "flannel" / "subnet.env"
    before = os.umask(0o077)
    try:
        subnet_file.write(path, dual)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o777 == 0o755
    assert path.parent.parent.stat().st_mode & 0o777 == 0o755


def test_replaced_not_rewritten_and_nothing_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    subnet_file.write(path, dual)
    with path.open() as old:
        subnet_file.write(path, SubnetEnv(mtu=1))
        assert "FLANNEL_NETWORK=10.5.0.0/16" in old.read()  # a reader keeps the whole old file
    assert os.listdir(tmp_path) == ["subnet.env"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "subnet.env"
    subnet_file.write(path, dual)

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(HostError, match=f"{path}: No space left"):
        subnet_file.write(path, SubnetEnv(mtu=1))
    assert subnet_file.read(path) == dual
    assert os.listdir(tmp_path) == ["subnet.env"]


def test_a_missing_file_says_nothing_and_an_unreadable_one_is_named(tmp_path: Path) -> None:
    assert subnet_file.read(tmp_path / "none") == SubnetEnv()
    with pytest.raises(HostError, match=str(tmp_path)):
        subnet_file.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FLANNEL_SUBNET=10.5.72.1/24\n", "10.5.72.0/24"),
        ("FLANNEL_SUBNET=bad,10.5.72.1/24\n", "10.5.72.0/24"),
        ("FLANNEL_SUBNET=10.5.72.1/24, 10.5.73.1/24\n", None),
        ("FLANNEL_SUBNET=bad,worse\n", None),
        ("FLANNEL_SUBNET=10.5.72.1\n", None),
        ("FLANNEL_SUBNET=fd00::1/64\n", None),
        ("FLANNEL_SUBNET=\n", None),
        ("FLANNEL_SUBNET\n", None),
        ('  export FLANNEL_SUBNET = "10.5.72.1/24"\n', "10.5.72.0/24"),
        ("# FLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_SUBNET='10.5.72.1/24'\n", "10.5.72.0/24"),
        ("FLANNEL_SUBNET=10.5.72.1/24 # ours\n", "10.5.72.0/24"),
        ("FLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_SUBNET=10.5.72.1/24\n", "10.5.72.0/24"),
    ],
)
def test_reader_is_tolerant(tmp_path: Path, text: str, expected: str | None) -> None:
    path = tmp_path / "subnet.env"
    path.write_text(text)
    assert subnet_file.read(path).subnet == (IPv4Network(expected) if expected else None)


@given(st.binary() | st.text("FLANEL_SUBTMQIPV6=,\n0123456789./: '\"#").map(str.encode))
def test_no_content_makes_the_reader_fail(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        subnet_file.read(Path(file.name))


@pytest.mark.parametrize("mtu", ["-50", "x", "9" * 5000, "", "1.5", "²"])
def test_an_unusable_mtu_is_zero(tmp_path: Path, mtu: str) -> None:
    path = tmp_path / "subnet.env"
    path.write_text(f"FLANNEL_MTU={mtu}\n")
    assert subnet_file.read(path).mtu == 0


def test_check_finds_what_write_would_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "subnet.env"
    subnet_file.check(path)
    assert list(path.parent.iterdir()) == []
    path.write_text("old")
    subnet_file.check(path)
    assert path.read_text() == "old" and len(list(path.parent.iterdir())) == 1
    for bad in (path / "subnet.env", path.parent, Path("/proc/subnet.env")):
        with pytest.raises(HostError, match=f"cannot write {bad}"):
            subnet_file.check(bad)
