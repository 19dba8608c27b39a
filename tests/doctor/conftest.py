"""Namespace tests: see lab_fixtures."""

from __future__ import annotations

import pytest

from tests.lab_fixtures import enter_enclosure, make_lab, make_shared_lab

__all__ = ["make_lab", "make_shared_lab"]


def pytest_configure(config: pytest.Config) -> None:
    enter_enclosure(config)
