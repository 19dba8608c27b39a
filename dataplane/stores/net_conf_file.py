"""The network configuration as a file: of the embedded store, and of the mounted ConfigMap in Kubernetes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dataplane.errors import BadConfig, NoConfig
from dataplane.flannel.net_conf import parse, validate
from dataplane.model import NetConf


def load(path: Path) -> NetConf:
    """Read, parse and validate the file; raises as `load_as` does."""
    return load_as(path, validate)


def load_as(path: Path, check: Callable[[NetConf], NetConf]) -> NetConf:
    """Read and parse the file, and return what `check` makes of it.

    Raises:
        NoConfig: there is no such file (yet).
        BadConfig: it cannot be read, or its content cannot be used.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise NoConfig(f"there is no network configuration at {path}") from None
    except OSError as error:
        raise BadConfig(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return check(parse(text))
    except BadConfig as error:
        raise BadConfig(f"{path}: {error}") from error
