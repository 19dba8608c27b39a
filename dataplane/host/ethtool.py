"""What a network device says of itself to SIOCETHTOOL: its driver, and its features as `ethtool -k` shows them."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

from dataplane.errors import HostError

_siocethtool = 0x8946  # linux/sockios.h
_get_driver, _get_strings, _get_set_info, _get_features = 0x03, 0x1B, 0x37, 0x3A  # linux/ethtool.h
_set_features = 4  # enum ethtool_stringset ETH_SS_FEATURES
_string_bytes = 32  # ETH_GSTRING_LEN


def driver_of(name: str) -> str:
    """Return the driver of a device ("tun", "vxlan"); raises `HostError`."""
    return _text(_ask(name, struct.pack("=I", _get_driver) + bytes(192))[4:36])


def active_features(name: str) -> frozenset[str]:
    """Return the kernel's names ("tx-udp_tnl-segmentation") of what is switched on; raises `HostError`."""
    sizes = _ask(name, struct.pack("=IIQI", _get_set_info, 0, 1 << _set_features, 0))
    (count,) = struct.unpack_from("=16xI", sizes)
    strings = _ask(name, struct.pack("=III", _get_strings, _set_features, count) + bytes(count * _string_bytes))[12:]
    words = (count + 31) // 32
    features = _ask(name, struct.pack("=II", _get_features, words) + bytes(words * 16))
    # struct ethtool_get_features_block: available, requested, active, never_changed
    active = struct.unpack_from(f"={words * 4}I", features, 8)[2::4]
    names = (_text(strings[at : at + _string_bytes]) for at in range(0, count * _string_bytes, _string_bytes))
    return frozenset(feature for bit, feature in enumerate(names) if active[bit // 32] >> bit % 32 & 1)


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode(errors="replace")


def _ask(name: str, request: bytes) -> bytes:
    """One SIOCETHTOOL; a socket asks its own network namespace."""
    data = array.array("B", request)
    ifreq = struct.pack("16sP16x", name.encode(), data.buffer_info()[0])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            fcntl.ioctl(probe, _siocethtool, ifreq)
    except OSError as error:
        raise HostError(f"cannot ask {name} what it is: {error.strerror or error}") from error
    return data.tobytes()
