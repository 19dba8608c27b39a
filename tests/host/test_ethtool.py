"""Features of the loopback device as we read them, beside what the ethtool command prints."""

from __future__ import annotations

import subprocess

import pytest

from dataplane.errors import HostError
from dataplane.host.ethtool import active_features


def test_features_are_those_that_ethtool_shows() -> None:
    """The command gives groups of features names of its own; every name that begins as the kernel's do is the kernel's."""
    shown = subprocess.run(["ethtool", "-k", "lo"], capture_output=True, text=True, check=True).stdout
    lines = [line.strip().split(":") for line in shown.splitlines()[1:]]
    states = {name: state.split()[0] == "on" for name, state in lines}
    kernel_names = {name for name in states if name.startswith(("tx-", "rx-"))} - {"tx-checksumming", "rx-checksumming"}
    assert len(kernel_names) > 20
    ours = active_features("lo")
    aliases = {"tx-vlan-offload", "rx-vlan-offload"}
    for name in kernel_names - aliases:
        assert (name in ours) == states[name], name


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(HostError, match="nodevice0.*No such device"):
        active_features("nodevice0")
