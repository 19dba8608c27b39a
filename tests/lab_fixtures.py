"""What namespace tests stand on: the whole test run happens inside the lab's enclosure, and clusters are fixtures.

pytest is started anew inside the enclosure as soon as a folder that needs it is met, before any test has run. Where no
enclosure can be made the run ends with the reason and exit code 1: nothing is skipped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest

from dataplane.errors import HostError
from dataplane.lab import enclosure
from dataplane.lab.cluster import Kind, Lab, net_conf

MakeLab = Callable[..., Lab]


def enter_enclosure(config: pytest.Config) -> None:
    """Run this very pytest command inside an enclosure and end with its exit code, unless we are inside already."""
    if enclosure.inside():
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture(in_=True)  # the run inside writes to the real stdout
    sys.stdout.flush()
    try:
        code = enclosure.run(sys.orig_argv)
    except HostError as error:
        print(f"tests in namespaces cannot run: {error}", file=sys.stderr)
        code = 1
    sys.stderr.flush()
    # Not sys.exit: pytest would go on and collect.
    os._exit(code)


def _labs() -> Iterator[MakeLab]:
    """Yield a function that makes and starts a lab; all of them are removed at the end.

    Its arguments: backend, then node kinds; ipv6 (default True), pods per node, and those of `net_conf` and `Lab`.
    """
    made: list[Lab] = []

    def make(
        backend: str,
        *kinds: Kind,
        ipv6: bool = True,
        pods: int = 1,
        backend_options: dict[str, object] | None = None,
        mtu: int = 1500,
        options: tuple[str, ...] = (),
    ) -> Lab:
        lab = Lab(net_conf(backend, ipv6=ipv6, options=backend_options), mtu=mtu, options=options)
        made.append(lab)
        lab.start(*kinds, pods=pods)
        return lab

    try:
        yield make
    finally:
        _close(made)


make_lab = pytest.fixture(_labs)
make_shared_lab = pytest.fixture(_labs, scope="module")


@pytest.fixture
def labs() -> Iterator[list[Lab]]:
    """Labs put in here are removed at the end."""
    made: list[Lab] = []
    try:
        yield made
    finally:
        _close(made)


def _close(made: list[Lab]) -> None:
    for lab in made:
        print(lab.logs(lines=60))  # pytest shows it with a test that failed
        lab.close()
