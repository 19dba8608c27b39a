"""Tests of the API server itself."""

from tests.apiserver.fixtures import own_server

__all__ = ["own_server"]
