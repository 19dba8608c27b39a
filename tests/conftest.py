"""Running two at a time (`pytest -n 2`): every worker has an enclosure of its own, so that nothing of two labs can meet.

What must stay true: within an enclosure one test runs at a time; names, addresses, ports and processes are its alone.
Where no enclosure can be made the run ends with the reason and exit code 1, as it does without workers (lab_fixtures).
No example has a time limit of its own: a busy machine makes any of them slow, and that is no finding.
"""

from __future__ import annotations

import shlex
import sys

import pytest
from execnet import XSpec
from hypothesis import settings

from dataplane.errors import HostError
from dataplane.lab import enclosure
from tests import root

pytest.register_assert_rewrite("tests.core", "tests.host", "tests.netns", "tests.stores")  # helpers tell what they saw
settings.register_profile("dataplane", deadline=None)
settings.load_profile("dataplane")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[XSpec]) -> None:
    """Start the workers' interpreters inside."""
    try:
        enclosure.run(["true"])
    except HostError as error:
        pytest.exit(f"tests in namespaces cannot run: {error}", 1)
    for spec in specs:
        spec.python = shlex.join([sys.executable, "-m", "dataplane.lab.enclosure", "--", sys.executable])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the stores before all else: two workers end together when what comes last is short, and these are not."""
    stores = root / "tests" / "stores"
    items.sort(key=lambda item: not item.path.is_relative_to(stores))
