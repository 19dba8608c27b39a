"""Whether a directory can hold the embedded store: locks and shared memory must mean the same to all its users."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

from dataplane.errors import StoreError

# statfs f_type of file systems where locks and shared memory do not hold between machines (linux/magic.h,
# fs/*/super.c). FUSE may be local, but nothing tells it from sshfs or gcsfuse.
_unsuitable = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFE534D42: "SMB2",
    0xFF534D42: "CIFS",
    0x01021997: "9P",
    0x65735546: "FUSE",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x6B414653: "AFS",
    0x73757245: "Coda",
    0x7461636F: "OCFS2",
    0x01161970: "GFS2",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
}


def refuse_network_file_system(directory: Path) -> None:
    """Raise `StoreError` if the directory is where SQLite's locks do not hold; `OSError` if that cannot be told."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(512)  # struct statfs is at most 120 bytes
    if libc.statfs(os.fsencode(directory), buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    # f_type comes first and is a long, except on s390x; magic numbers fill 32 bits.
    kind = ctypes.c_uint if platform.machine() == "s390x" else ctypes.c_long
    name = _unsuitable.get(kind.from_buffer(buffer).value & 0xFFFFFFFF)
    if name is not None:
        raise StoreError(
            f"lease directory {directory} is on {name}, where SQLite's locks cannot be relied on; "
            "allowed is a local file system such as ext4, xfs, btrfs or tmpfs"
        )
