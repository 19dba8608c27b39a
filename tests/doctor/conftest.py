"""Namespace tests: see lab_fixtures."""

from __future__ import annotations

import pytest

from tests.lab_fixtures import enter_enclosure, labs, make_lab, make_shared_lab

__all__ = ["labs", "make_lab", "make_shared_lab"]


def pytest_configure(config: pytest.Config) -> None:
    enter_enclosure(config)
