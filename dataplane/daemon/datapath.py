"""Who carries the packets: the kernel's vxlan device where it is asked for and to be had, else our own forwarder.

The kernel's device is made, or taken over, right here: whether the kernel does it shows only then, and its MAC must be
known before the lease tells it (flannel's order). What must stay true: `auto` says why it took which, and leaves no
device behind that would keep the forwarder from its name or port.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from dataplane.backends import Backend
from dataplane.errors import BadConfig, HostFault
from dataplane.host.interface import ExternalInterface
from dataplane.host.netlink import Host
from dataplane.keepers.opening import Opener
from dataplane.model import IPNetwork, type_host_gw, type_udp
from dataplane.observe.state import Datapath

if TYPE_CHECKING:
    from dataplane.backends.vxlan import VxlanBackend

log = logging.getLogger(__name__)

_flannels_name = re.compile(r"flannel(-v6)?\.[0-9]+")


async def choose_datapath(
    asked: str,
    backend: Backend,
    host: Host,
    external: ExternalInterface,
    macs: Mapping[int, bytes],
    opener: Opener,
    left: Collection[str] = (),
    networks: Collection[IPNetwork] = (),
) -> tuple[Datapath, Mapping[int, bytes]]:
    """Return who carries the packets and why, and the VTEP MACs that then hold (an adopted device keeps its own).

    Our own vxlan forwarder needs name and port at once: earlier lives' devices go here. Otherwise they carry on until the
    new way stands (`remove_earlier`).

    Args:
        asked: "auto", "kernel" or "userspace" (--datapath).
        macs: VTEP MAC by underlay family, as it would be for a new device.
        opener: has the TUN devices of earlier lives; the kernel's device takes their name and port.
        left, networks: as for `remove_earlier`.
    Raises:
        BadConfig: the backend does not go together with what was asked.
        HostFault: the kernel was asked for and refuses, or another process has our device name.
        HostError: the host changes; to be tried again.
    """
    if backend.kind == type_host_gw:
        return Datapath("kernel", "host-gw is plain routes"), macs
    if backend.kind == type_udp:
        if asked == "kernel":
            raise BadConfig("--datapath kernel: the kernel has no udp backend; allowed with it: auto, userspace")
        _check_names(backend, opener)
        return Datapath("userspace", "the udp backend has no other"), macs

    # Only what is in use is imported: start must be quick.
    from dataplane.backends.vxlan import VxlanBackend

    if not isinstance(backend, VxlanBackend):
        raise BadConfig(f"backend {backend.kind} has no datapath")
    if asked != "userspace":
        try:
            taken = await _take_kernel(backend, host, external, macs, opener)
        except HostFault as error:
            if asked == "kernel":
                raise
            reason = f"--datapath auto, and the kernel's vxlan is not to be had: {error}"
            log.warning("%s", reason)
        else:
            reason = (
                "--datapath auto, and the kernel has vxlan" if asked == "auto" else "--datapath kernel was asked for"
            )
            return Datapath("kernel", reason), taken
    else:
        reason = "--datapath userspace was asked for"
    if backend.group_policy:
        raise BadConfig(
            "Backend.GBP: true; our own data plane carries no group policy; allowed with it: --datapath kernel"
        )
    await remove_earlier(host, (*left, *backend.device_names), networks)
    _check_names(backend, opener)
    return Datapath("userspace", reason), macs


async def _take_kernel(
    backend: VxlanBackend, host: Host, external: ExternalInterface, macs: Mapping[int, bytes], opener: Opener
) -> dict[int, bytes]:
    from dataplane.host import vxlan

    refusal = await vxlan.supported(host)
    if refusal:
        raise HostFault(
            f"the kernel makes no vxlan devices: {refusal}; load the vxlan module, or use --datapath userspace"
        )
    await remove_unwanted(opener, ())
    links = backend.links(external.name, external.mtu, external.address, external.address6)
    taken: dict[int, bytes] = {}
    for family, link in links.items():
        earlier = await host.link(link.name)
        index, taken[family] = await vxlan.ensure_device(host, link, macs[family])
        if earlier is not None:
            fate = "is taken over" if index == earlier.index else "is made again: it was of another configuration"
            log.info("%s of an earlier life %s", link.name, fate)
    return taken


async def remove_earlier(
    host: Host, left: Collection[str], networks: Collection[IPNetwork], keep: Collection[str] = ()
) -> None:
    """Remove vxlan devices of earlier lives, which hold our address, port or routes, and the filters before them.

    Args:
        left: names that earlier lives of ours wrote down.
        networks: the overlay's: a device with a name of flannel's and an address in here is an earlier life's too.
        keep: names that are in use now.
    Raises:
        HostError: the kernel refuses.
    """
    from dataplane.host import vxlan
    from dataplane.keepers import admission

    names = set(left)
    for link in await host.links():
        if _flannels_name.fullmatch(link.name) and link.name not in names:
            addresses = [address.interface for address in await host.addresses(link.index)]
            if any(own.version == net.version and own.ip in net for own in addresses for net in networks):
                names.add(link.name)
    removed = []
    for name in sorted(names.difference(keep)):
        if await vxlan.remove_device(host, name):
            removed.append(name)
        await admission.remove(host, name)
    if removed:
        log.warning("removed vxlan devices of the kernel that an earlier life left: %s", ", ".join(removed))


async def remove_unwanted(opener: Opener, wanted: Collection[str]) -> None:
    """Take away TUN devices of earlier lives and processes but for those of these plans."""
    names = await asyncio.to_thread(opener.remove_unwanted, wanted)
    if names:
        log.warning("removed TUN devices that an earlier life left: %s", ", ".join(names))


def _check_names(backend: Backend, opener: Opener) -> None:
    from dataplane.host.edges.tun import check_tun

    for name in backend.device_names:
        check_tun(name, opener.is_ours)
