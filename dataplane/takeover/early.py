"""Forwards again by what the process before wrote down, before store, configuration and most libraries are loaded.

What must stay true: only what this needs is imported, here and in all that this imports at its top; whatever is wrong
is left to the start itself, which says it better.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dataplane.errors import BadInput, HostError
from dataplane.runtime.limits import raise_descriptor_limit
from dataplane.takeover.inherited import Inherited, resume
from dataplane.takeover.record import read
from dataplane.takeover.systemd import kept_by_systemd


def begin(run_dir: Path, environment: Mapping[str, str]) -> Inherited | None:
    """Take the run directory and forward; None where it cannot be had: another daemon has it, or it is not ours.

    Args:
        environment: where systemd says what it kept for us.
    """
    raise_descriptor_limit()
    inherited = Inherited()
    try:
        inherited.hold_directory(run_dir)
    except HostError:
        return None
    kept = kept_by_systemd(environment)
    inherited.stored |= set(kept.by_name)
    try:
        carried = read(run_dir)
    except BadInput as error:
        inherited.notes.append(f"starting without what was known before: {error}")
        carried = None
    for told in () if carried is None else carried.devices:
        given = kept.of(told.plan.name)
        device = resume(carried, told, given) if carried else ""
        if isinstance(device, str):
            inherited.notes.append(f"starting without what was known before: {device}")
            inherited.stayed.append(told)
        else:
            inherited.running.append((device, told))
    kept.close()
    inherited.carried = carried
    return inherited
