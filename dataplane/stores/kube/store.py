"""The Kubernetes lease store: a Node is a lease, its pod subnets are the subnets, annotations are what is published.

What must stay true: only our own Node is written, only through its status subresource, and only what differs, so
that everybody else's annotations and conditions stay; nothing is ever taken away (flannel leaves its annotations, and
takes them up again); there is no end of a lease, it stands for as long as the Node does.
Source: flannel pkg/subnet/kube/kube.go; flannel.md section 3.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from random import Random, SystemRandom

from dataplane.errors import BadInput, BadLease, LeaseWithdrawn, NoLease, StoreError
from dataplane.flannel.annotations import Facts, born_of, own_addresses, read_lease, read_subnets, wanted
from dataplane.flannel.net_conf import networks_only
from dataplane.model import IPAddress, IPNetwork, Lease, LeaseAttrs, NetConf, WatchEvent
from dataplane.stores import net_conf_file
from dataplane.stores.base import Store
from dataplane.stores.kube.access import KubeAccess
from dataplane.stores.kube.client import KubeClient, Refused, Timing, not_found
from dataplane.stores.kube.condition import condition_type
from dataplane.stores.kube.nodes import Nodes, Own, facts_of
from dataplane.stores.kube.position import Position
from dataplane.stores.kube.watch import Spans, follow

log = logging.getLogger(__name__)


class KubeStore(Store):
    """A `Store` (see stores.base) in a Kubernetes cluster.

    While a watch stands nothing is asked: contact is what the watch brings. Of an API server that is away some hundred
    daemons a second ask, of five thousand.

    Args:
        access: where it is; files with credentials are read now.
        net_conf_path: the network configuration, mostly a mounted ConfigMap.
        timing, spans, random: for tests.
    Raises:
        BadInput: the kubeconfig cannot be used, or there is none and we are no pod.
    """

    first_delay_s = 1.0
    longest_delay_s = 20.0  # so that half a minute after its return the server's state is everybody's

    def __init__(
        self,
        access: KubeAccess,
        net_conf_path: Path,
        *,
        timing: Timing | None = None,
        spans: Spans | None = None,
        random: Random | None = None,
    ) -> None:
        self._access = access
        self._net_conf_path = net_conf_path
        self._timing = timing or Timing()
        self._client = KubeClient(access, self._timing)
        self._spans = spans or Spans()
        self._random = random or SystemRandom()
        self._name = access.node_name
        self._nodes: Nodes | None = None
        self._conf: NetConf | None = None
        self._at = Position()
        self._trouble = ""  # what the last watch failed by

    async def read_config(self) -> NetConf:
        """Return the configuration; SubnetLen, SubnetMin and SubnetMax are left out, since Kubernetes gives the subnets.

        Raises:
            BadConfig: it cannot be used.
            StoreError: there is none yet.
        """
        return net_conf_file.load_as(self._net_conf_path, networks_only)

    async def addresses(self) -> tuple[IPv4Address | None, IPv6Address | None]:
        """Return the Node's annotations node-public-ip and node-public-ipv6; raises `BadInput` where they are none."""
        with self._absence():
            facts = await self._facts()
        return own_addresses(facts)

    async def earlier(self, public: IPAddress | None) -> Lease | None:
        """Return what our Node says from an earlier life, ours or flannel's; `public` does not matter."""
        facts = await self._facts()
        try:
            return read_lease(self._name, facts, await self._in_use())
        except BadLease as error:
            log.info("what our Node says from an earlier life cannot be used: %s", error.reason)
            return None

    async def acquire(self, attrs: LeaseAttrs, previous: Lease | None) -> Lease:
        """Return the lease that our Node is, with our annotations on it.

        Args:
            previous: does not matter, the Node's subnets do.
        Raises:
            BadInput: a subnet of the Node is none, or not inside the overlay network.
            NoLease: there is no such Node, or no pod subnet is assigned.
            StoreError: the API server does not let us or does not answer.
        """
        return await self._claim(attrs)

    async def renew(self, lease: Lease, attrs: LeaseAttrs | None = None) -> Lease:
        """Put our annotations back where they are not what they should be, or new ones, and return the lease.

        Raises:
            LeaseWithdrawn: the Node is gone, or has other subnets, or none.
            StoreError: the API server does not let us or does not answer.
        """
        try:
            return await self._claim(attrs or lease.attrs, lease)
        except NoLease as error:
            raise LeaseWithdrawn(f"lease {lease.key} is gone: there is no node {self._name} any more") from error
        except BadInput as error:
            raise StoreError(str(error)) from error

    async def watch(self) -> AsyncGenerator[WatchEvent, None]:
        """Yield a Snapshot, then every change in order; ends only by cancellation or `StoreError`."""
        nodes = await self._all()
        try:
            following = follow(self._client, nodes, self._at, self._spans, self._random, time.monotonic)
            async with aclosing(following) as events:
                async for event in events:
                    yield event
        except StoreError as error:
            self._trouble = str(error)
            raise

    @property
    def stands(self) -> bool:
        """Whether the API server has taken our watch, and changes arrive."""
        return self._at.stands

    async def announce(self) -> None:
        """Set our Node's condition NetworkUnavailable to False, as some cloud providers wait for, and keep it so.

        Returns only where we are not to. What the watch shows says when it is to be set again.
        """
        if not self._access.set_network_unavailable:
            return
        network = (await self._all()).network
        while True:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            condition = {
                "type": condition_type,
                "status": "False",
                "lastHeartbeatTime": now,
                "lastTransitionTime": now,
                "reason": "FlannelIsUp",
                "message": "Flannel is running on this node",
            }
            uid = network.uid
            # Where it is gone just now the watch will show whether there is one again.
            with suppress(NoLease), self._absence():
                node = await self._client.patch_status(self._name, {"status": {"conditions": [condition]}})
                network.look(node)
                uid = node.metadata.uid
            await network.needed(uid)
            log.info(
                "node %s does not say any more that its network is there; setting %s again", self._name, condition_type
            )

    async def ping(self) -> None:
        """Say how the watch is, without a request; raises `StoreError` with what it failed by, until it stands again."""
        if self._at.stands:
            self._trouble = ""
        if self._trouble:
            raise StoreError(self._trouble)

    async def close(self) -> None:
        """Close the connections. Annotations stay."""
        await self._client.close()

    async def _claim(self, attrs: LeaseAttrs, held: Lease | None = None) -> Lease:
        with self._absence():
            facts = await self._facts()
        try:
            subnet, ipv6_subnet = self._subnets(facts, await self._in_use())
        except (NoLease, BadInput) as error:
            if held is None:
                raise
            raise LeaseWithdrawn(f"lease {held.key} is not ours any more: {error}") from error
        if held is not None and (held.subnet, held.ipv6_subnet) != (subnet, ipv6_subnet):
            raise LeaseWithdrawn(f"lease {held.key} is not ours any more: node {self._name} has other pod subnets now")
        lease = Lease(subnet, ipv6_subnet, attrs, born=born_of(self._name, facts))
        texts = wanted(attrs, facts)
        (await self._all()).hold(Own(self._name, lease))
        changed = {item: text for item, text in texts.items() if facts.annotations.get(item) != text}
        if changed:
            annotations = {self._access.prefix + item: text for item, text in changed.items()}
            with self._absence():
                await self._client.patch_status(self._name, {"metadata": {"annotations": annotations}})
            log.info("annotated node %s: %s", self._name, ", ".join(sorted(changed)))
        return lease

    def _subnets(self, facts: Facts, conf: NetConf) -> tuple[IPv4Network | None, IPv6Network | None]:
        """Return our subnets, one for each enabled family."""
        subnets = read_subnets(self._name, facts, conf)
        for subnet, network, enabled in zip(
            subnets, (conf.network, conf.ipv6_network), (conf.enable_ipv4, conf.enable_ipv6), strict=True
        ):
            if not enabled or network is None:
                continue
            if subnet is None:
                version = "v4" if isinstance(network, IPv4Network) else "v6"
                raise NoLease(
                    f'node "{self._name}" pod cidr not assigned: spec.podCIDRs has no IP{version} subnet; '
                    "kube-controller-manager assigns them with --allocate-node-cidrs and --cluster-cidr"
                )
            if not _contains(network, subnet):
                raise BadInput(
                    f'subnet "{network}" specified in the flannel net config doesn\'t contain "{subnet}" PodCIDR of the '
                    f'"{self._name}" node'
                )
        return subnets

    async def _facts(self) -> Facts:
        """Return what our Node says now."""
        if not self._name:
            pod = await self._client.pod(self._access.pod_namespace, self._access.pod_name)
            if not pod.spec.node_name:
                raise StoreError(f"pod {self._access.pod_namespace}/{self._access.pod_name} has no node yet")
            self._name = pod.spec.node_name
        return facts_of(await self._client.node(self._name), self._access.prefix)

    @contextmanager
    def _absence(self) -> Iterator[None]:
        """Raise `NoLease` where the API server says that our Node is not there; a 404 of a proxy's says nothing of it."""
        try:
            yield
        except Refused as error:
            if error.code == not_found and f'nodes "{self._name}" not found' in str(error):
                raise NoLease(str(error)) from error
            raise

    async def _in_use(self) -> NetConf:
        """Return the configuration of the start: leases mean the same for as long as we live."""
        if self._conf is None:
            self._conf = await self.read_config()
        return self._conf

    async def _all(self) -> Nodes:
        if self._nodes is None:
            self._nodes = Nodes(self._access.prefix, await self._in_use())
        return self._nodes


def _contains(network: IPNetwork, subnet: IPNetwork) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(subnet, IPv4Network) and subnet.subnet_of(network)
    return isinstance(subnet, IPv6Network) and subnet.subnet_of(network)
