"""What this daemon leaves on the host when it ends, written down in the run directory for `dataplane cleanup`.

What must stay true: what was left is written before it is made, so that also a daemon that is killed can be cleaned
up after; a file that is not of here, or cannot be read, is moved aside, never written over.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from dataplane.errors import BadInput, HostError
from dataplane.footprint.form import Footprint, load, text_of
from dataplane.model import IPNetwork
from dataplane.runtime.place import Place, here
from dataplane.runtime.private_files import opened_directory, replace_file

log = logging.getLogger(__name__)

file_name = "footprint.json"


def add(run_dir: Path, footprint: Footprint, *, made: bool = False) -> None:
    """Write it down beside what earlier lives wrote here, which `remove` has not removed yet; raises `HostError`.

    Args:
        made: whether its devices stand, so that no other MACs than these are ours.
    """
    path = run_dir / file_name
    aside = _aside(path, here())
    try:
        with opened_directory(run_dir) as directory:
            earlier = [_kept(directory, each) for each in (aside, path)]
            merged = footprint
            for each in earlier:
                merged = merged if each is None or each.is_gone else _merge(each, merged, made)
            replace_file(directory, path, text_of(merged))
            if earlier[0] is not None:
                os.unlink(aside.name, dir_fd=directory)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def add_tun(run_dir: Path, name: str, index: int) -> None:
    """Write down a TUN device that is to stay, beside what `add` wrote; raises `HostError`."""
    path = run_dir / file_name
    try:
        with opened_directory(run_dir) as directory:
            footprint = load(directory, path)
            if footprint is None or not footprint.is_here or footprint.is_gone:
                raise HostError(f"{path} is not what was written there")
            replace_file(directory, path, text_of(replace(footprint, tuns={**footprint.tuns, name: index})))
    except (OSError, BadInput) as error:
        raise HostError(f"cannot write {path}: {error}") from error


def read(run_dir: Path) -> Footprint | None:
    """Return what was written here, None if nothing was; raises `BadInput` if it cannot be read or is not of here."""
    found = find(run_dir)
    return None if found is None else found[1]


def find(run_dir: Path) -> tuple[Path, Footprint] | None:
    """Return what was written here, and in which file; None if nothing was.

    Raises:
        BadInput: it cannot be read, or is of another network namespace.
    """
    path = run_dir / file_name
    others = []
    try:
        with opened_directory(run_dir) as directory:
            for each in (path, _aside(path, here())):
                found = load(directory, each)
                if found is not None and found.is_here:
                    return each, found
                if found is not None:
                    others.append(f"{each} {_of(found)}")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error}); remove it, and what it names by hand") from error
    if others:
        raise BadInput(
            f"{'; '.join(others)}: what it names is not touched from here; run the command there "
            "(ip netns exec NAME …), or remove the file if that namespace is gone"
        )
    return None


def _merge(earlier: Footprint, later: Footprint, made: bool) -> Footprint:
    devices = {**earlier.devices, **later.devices}
    for name in () if made else earlier.devices.keys() & later.devices.keys():
        known, planned = earlier.devices[name], later.devices[name]
        devices[name] = known | planned if known and planned else frozenset()  # one may be there of which none is known
    return replace(
        later,
        devices=devices,
        interfaces=(*(name for name in earlier.interfaces if name not in later.interfaces), *later.interfaces),
        networks=_union(earlier.networks, later.networks),
        subnets=_union(earlier.subnets, later.subnets),
        blackhole=earlier.blackhole or later.blackhole,
        firewall=earlier.firewall or later.firewall,
        tuns={**earlier.tuns, **later.tuns},
    )


def _union(earlier: tuple[IPNetwork, ...], later: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
    return tuple(sorted({*earlier, *later}, key=str))


def _aside(path: Path, place: Place) -> Path:
    return path.with_name(f"{path.name}.{place.netns}")


def _of(footprint: Footprint) -> str:
    there = footprint.place
    return f"is of another network namespace (net:[{there.netns if there else 0}], here is net:[{here().netns}])"


def _kept(directory: int, path: Path) -> Footprint | None:
    """Read an earlier footprint; one that cannot be read, or is not of here, is moved aside. Raises `OSError`."""
    try:
        found = load(directory, path)
        fault = "" if found is None or not found.faults else "; ".join(found.faults)
    except (OSError, BadInput) as error:
        found, fault = None, error.strerror or str(error) if isinstance(error, OSError) else str(error)
    if found is not None and not found.is_here and found.place is not None:
        to = _aside(path, found.place)
        os.rename(path.name, to.name, src_dir_fd=directory, dst_dir_fd=directory)
        log.warning("%s %s: moved to %s", path, _of(found), to)
        return None
    if fault:
        to = path.with_name(f"{file_name}.bad")
        os.rename(path.name, to.name, src_dir_fd=directory, dst_dir_fd=directory)
        log.warning("%s: %s; moved to %s, see to what else it names by hand", path, fault, to)
    return found
