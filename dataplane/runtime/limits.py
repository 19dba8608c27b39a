"""Limits of this process."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)


def raise_descriptor_limit() -> None:
    """Allow as many descriptors as the hard limit does: systemd's soft limit of 1,024 is for programs that select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.warning("the limit of %d descriptors cannot be raised to %d: %s", soft, hard, error)
