"""Here the kernel itself is tested: in the enclosure, and mostly in namespaces of each test's own within it."""

from __future__ import annotations

import pytest

from tests.lab_fixtures import enter_enclosure


def pytest_configure(config: pytest.Config) -> None:
    enter_enclosure(config)
