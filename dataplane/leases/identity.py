"""Who we were in an earlier life, as far as the store still knows.

What must stay true: a node keeps its VTEP MAC over restarts while its lease lives. Peers do learn a new MAC from
the lease, but packets under way while they learn are lost.
"""

from __future__ import annotations

import logging
import os

from dataplane.backends.base import Backend
from dataplane.errors import BadLease
from dataplane.model import IPAddress
from dataplane.stores.base import Store

log = logging.getLogger(__name__)


async def vtep_macs(store: Store, backend: Backend, identity: IPAddress | None) -> dict[int, bytes]:
    """Return our VTEP MAC by underlay family: that of our earlier lease where the store has it, else a random one.

    Args:
        identity: our public address, by which a store knows a node.
    Raises:
        StoreError: the store cannot be used now.
    """
    if not backend.mac_families:
        return {}
    # Only vxlan has VTEP MACs; a udp node need not load it.
    from dataplane.backends.vxlan import published_mac, random_mac

    earlier = await store.earlier(identity)
    macs: dict[int, bytes] = {}
    for family in backend.mac_families:
        macs[family] = random_mac(os.urandom(6))
        if earlier is None:
            continue
        attrs = earlier.attrs
        field, data = ("BackendData", attrs.backend_data) if family == 4 else ("BackendV6Data", attrs.backend_v6_data)
        try:
            macs[family] = published_mac(earlier.key, field, data)
        except BadLease as error:
            log.info("taking a new VTEP MAC: %s", error)
    return macs
