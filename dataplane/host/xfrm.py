"""Whether the host has IPsec (xfrm) policies for what leaves it. Packets that go around the host's output must then not exist.

Source: linux/xfrm.h; net/xfrm/xfrm_user.c xfrm_get_spdinfo, which counts without listing.
"""

from __future__ import annotations

import errno
import socket
import struct

from dataplane.errors import HostError

netlink_xfrm = 6  # linux/netlink.h
policy_group = 1 << 3  # XFRMNLGRP_POLICY as a bind mask
_get_spd_info, _new_spd_info = 0x25, 0x24
_spd_info = 1  # XFRMA_SPD_INFO: struct xfrmu_spdinfo, six 32-bit counts: in, out, forward, and those of sockets
_request = 1  # NLM_F_REQUEST


def has_output_policies() -> bool:
    """Whether a policy for output exists in this network namespace; a kernel without xfrm has none.

    Raises:
        HostError: the kernel does not say.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, netlink_xfrm) as asking:
            asking.settimeout(1.0)
            asking.sendto(struct.pack("=IHHIII", 20, _get_spd_info, _request, 1, 0, 0), (0, 0))
            answer = asking.recv(4096)
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
            return False
        raise HostError(f"cannot ask for IPsec policies: {error.strerror or error}") from error
    kind = struct.unpack_from("=4xH", answer)[0] if len(answer) >= 20 else 0
    at = 20  # behind struct nlmsghdr and the 32-bit flags
    while kind == _new_spd_info and at + 12 <= len(answer):
        length, attribute = struct.unpack_from("=HH", answer, at)
        if attribute == _spd_info:
            return bool(struct.unpack_from("=8xI", answer, at)[0])
        at += max(4, (length + 3) // 4 * 4)
    raise HostError("cannot ask for IPsec policies: the kernel's answer is not understood")
