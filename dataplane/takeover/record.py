"""The file in the run directory by which the next process forwards before it knows anything else.

What must stay true: it is in place whole or not at all, ours alone, and of this boot and network namespace, or not used.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from dataplane.errors import BadInput, HostError
from dataplane.runtime.place import here
from dataplane.runtime.private_files import open_file, opened_directory, replace_file
from dataplane.takeover.form import Carried, decode, most_bytes

file_name = "forwarding"


def write(run_dir: Path, content: bytes) -> None:
    """Write down what `form.encode` made; raises `HostError`."""
    try:
        with opened_directory(run_dir) as directory:
            replace_file(directory, run_dir / file_name, content)
    except OSError as error:
        raise HostError(f"cannot write {run_dir / file_name}: {error.strerror}") from error


def remove(run_dir: Path) -> None:
    """Remove the file; raises `HostError`."""
    try:
        with opened_directory(run_dir) as directory, suppress(FileNotFoundError):
            os.unlink(file_name, dir_fd=directory)
    except OSError as error:
        raise HostError(f"cannot remove {run_dir / file_name}: {error.strerror}") from error


def read(run_dir: Path) -> Carried | None:
    """Return what the process before us wrote; None if there is nothing, or not of this boot and namespace.

    Raises:
        BadInput: it cannot be read.
    """
    path = run_dir / file_name
    try:
        with opened_directory(run_dir) as directory, os.fdopen(open_file(directory, path, os.O_RDONLY), "rb") as file:
            content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise BadInput(f"it is larger than {most_bytes} bytes")
        carried = decode(content)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    now = here()
    return carried if carried.place.same_boot(now) and carried.place.same_netns(now) else None
