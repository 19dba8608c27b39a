"""What the Kubernetes store writes on our Node and reads there: flannel's bytes, and nothing of anybody else's."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

import pytest

from dataplane.errors import BadConfig, BadInput, LeaseLost, LeaseWithdrawn, NoLease, StoreError
from dataplane.model import Lease, LeasePut, Snapshot
from tests.apiserver.process import Server
from tests.stores.kube.own_node import acquire, flannels, patches
from tests.stores.kube.places import annotations, dual, store_of, until, vxlan
from tests.stores.loop import run


def test_a_node_becomes_our_lease(server: Server, name: str, tmp_path: Path) -> None:
    before = server.add_node(name, "10.244.7.0/24")
    lease = acquire(store_of(server, name, tmp_path))
    assert lease == Lease(IPv4Network("10.244.7.0/24"), None, vxlan, None, lease.born) and lease.born[0]
    assert annotations(server, name) == flannels
    after = server.node(name)
    assert after["metadata"]["annotations"]["volumes.kubernetes.io/x"] == "y"
    assert (after["status"], after["spec"]) == (before["status"], before["spec"])
    # Once more there is nothing to write.
    version = after["metadata"]["resourceVersion"]
    acquire(store_of(server, name, tmp_path))
    assert server.node(name)["metadata"]["resourceVersion"] == version
    assert patches(server, name) == 1


def test_dual_stack(server: Server, name: str, tmp_path: Path) -> None:
    server.add_node(name, "10.244.7.0/24", "fd00:244:0:7::/64")
    conf = {"Network": "10.244.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00:244::/48"}
    lease = acquire(store_of(server, name, tmp_path, conf=conf), dual)
    assert lease.ipv6_subnet == IPv6Network("fd00:244:0:7::/64")
    six = {"backend-v6-data": '{"VNI":1,"VtepMAC":"0e:11:22:33:44:55"}', "public-ipv6": "2001:db8::1"}
    assert annotations(server, name) == flannels | six


def test_a_subnet_length_that_does_not_fit_does_not_matter(server: Server, name: str, tmp_path: Path) -> None:
    server.add_node(name, "10.244.7.0/26")
    conf = {"Network": "10.244.0.0/16", "SubnetLen": 8, "SubnetMin": "172.16.0.0"}
    assert acquire(store_of(server, name, tmp_path, conf=conf)).subnet == IPv4Network("10.244.7.0/26")


def test_another_prefix(server: Server, name: str, tmp_path: Path) -> None:
    server.add_node(name, "10.244.7.0/24")
    acquire(store_of(server, name, tmp_path, annotation_prefix="org.com/9-"))
    texts = server.node(name)["metadata"]["annotations"]
    assert {item: text for item, text in texts.items() if item.startswith("org.com")} == {
        f"org.com/9-{item}": text for item, text in flannels.items()
    }


def test_the_vtep_mac_is_kept_by_the_annotation(server: Server, name: str, tmp_path: Path) -> None:
    server.add_node(name, "10.244.7.0/24")

    async def work() -> None:
        store = store_of(server, name, tmp_path)
        assert await store.earlier(None) is None
        server.annotate_as_flannel(name, vxlan)
        # Also when the node has moved to another address.
        earlier = await store.earlier(IPv4Address("192.0.2.99"))
        assert earlier is not None
        assert earlier.attrs == vxlan
        await store.close()

    run(work())


def test_an_overwrite_is_published_and_used_by_nobody_here(server: Server, name: str, tmp_path: Path) -> None:
    server.add_node(name, "10.244.7.0/24")
    server.annotate(name, {"flannel.alpha.coreos.com/public-ip-overwrite": "198.51.100.7"})

    async def work() -> None:
        store = store_of(server, name, tmp_path)
        lease = await store.acquire(vxlan, None)
        assert lease.attrs == vxlan
        assert annotations(server, name)["public-ip"] == "198.51.100.7"
        events = store.watch()
        first = await anext(events)
        assert lease in first.leases  # type: ignore[union-attr]
        await events.aclose()
        # A new one is taken up with the next look at the Node.
        server.annotate(name, {"flannel.alpha.coreos.com/public-ip-overwrite": "198.51.100.8"})
        await store.renew(lease)
        assert annotations(server, name)["public-ip"] == "198.51.100.8"
        await store.close()

    run(work())


def test_an_overwrite_set_later_is_noticed_by_the_watch(
    server: Server, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.add_node(name, "10.244.7.0/24")
    overwrite = "flannel.alpha.coreos.com/public-ip-overwrite"

    async def work() -> None:
        store = store_of(server, name, tmp_path)
        lease = await store.acquire(vxlan, None)
        async with aclosing(store.watch()) as events:
            await until(events, Snapshot)

            async def shown() -> LeasePut:
                while True:
                    event: LeasePut = await until(events, LeasePut)
                    if event.lease.key == lease.key:
                        return event

            for text in ("198.51.100.7", "198.51.100.8", ""):
                await asyncio.to_thread(server.annotate, name, {overwrite: text})
                # Not as we hold it: the daemon's cue to look, and to write what is wanted.
                assert (await shown()).lease.attrs != vxlan
                await store.renew(lease)
                assert annotations(server, name)["public-ip"] == (text or "192.0.2.1")
                assert (await shown()).lease == lease
            await asyncio.to_thread(server.annotate, name, {overwrite: "nowhere"})
            await asyncio.to_thread(server.add_node, f"{name}-peer", "10.244.8.0/24")
            await asyncio.to_thread(
                server.annotate, f"{name}-peer", {"flannel.alpha.coreos.com/kube-subnet-manager": "true"}
            )
            event = await until(events, LeasePut)
            assert event.lease.key != lease.key  # ours is as it was, and ready
            assert 'our Node\'s annotation public-ip-overwrite: "nowhere" is not an IPv4 address' in caplog.text
        await store.close()

    run(work())


def test_an_administrators_address(server: Server, name: str, tmp_path: Path) -> None:
    server.add_node(name, "10.244.7.0/24", annotations={"flannel.alpha.coreos.com/node-public-ip": "192.0.2.77"})

    async def work() -> None:
        store = store_of(server, name, tmp_path)
        assert await store.addresses() == (IPv4Address("192.0.2.77"), None)
        await store.close()

    run(work())


@pytest.mark.parametrize(
    ("cidrs", "error"),
    [
        (("10.5.1.0/24",), 'doesn\'t contain "10.5.1.0/24" PodCIDR of the'),
        (("10.244.1.0/24", "10.244.2.0/24", "fd00::/64"), "should be IPv4/IPv6 only or dualstack"),
    ],
)
def test_a_node_with_wrong_subnets_ends_the_start(
    server: Server, name: str, tmp_path: Path, cidrs: tuple[str, ...], error: str
) -> None:
    server.add_node(name, *cidrs)
    with pytest.raises(BadInput, match=error):
        acquire(store_of(server, name, tmp_path))
    assert annotations(server, name) == {}


def test_a_node_without_a_subnet_is_no_lease_yet(server: Server, name: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f'nodes "{name}" not found'):
        acquire(store_of(server, name, tmp_path))
    server.add_node(name)
    with pytest.raises(StoreError, match=f'node "{name}" pod cidr not assigned'):
        acquire(store_of(server, name, tmp_path))


def test_a_network_is_needed(server: Server, name: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="Network: please define"):
        run(store_of(server, name, tmp_path, conf={"Backend": {"Type": "vxlan"}}).read_config())


def test_a_renewal_puts_back_what_somebody_changed(server: Server, name: str, tmp_path: Path) -> None:
    server.add_node(name, "10.244.7.0/24")

    async def work() -> None:
        store = store_of(server, name, tmp_path)
        lease = await store.acquire(vxlan, None)
        server.annotate(name, {"flannel.alpha.coreos.com/backend-data": "null"})
        assert await store.renew(lease) == lease
        assert annotations(server, name) == flannels
        moved = replace(vxlan, public_ip=IPv4Address("192.0.2.55"))
        assert (await store.renew(lease, moved)).attrs == moved
        assert annotations(server, name) == flannels | {"public-ip": "192.0.2.55"}
        await store.close()

    run(work())


def test_a_node_that_is_gone_or_another_is_a_lost_lease(server: Server, name: str, tmp_path: Path) -> None:
    server.add_node(name, "10.244.7.0/24")

    async def work() -> None:
        store = store_of(server, name, tmp_path)
        lease = await store.acquire(vxlan, None)
        server.delete_node(name)
        with pytest.raises(LeaseWithdrawn, match=f"there is no node {name} any more"):
            await store.renew(lease)
        with pytest.raises(NoLease, match=f'nodes "{name}" not found'):
            await store.acquire(vxlan, None)
        with pytest.raises(NoLease, match=f'nodes "{name}" not found'):
            await store.addresses()
        # A kubelet registers it, and only then the controller manager assigns a subnet.
        server.add_node(name)
        with pytest.raises(LeaseWithdrawn, match="is not ours any more: .*pod cidr not assigned"):
            await store.renew(lease)
        with pytest.raises(NoLease, match="pod cidr not assigned"):
            await store.acquire(vxlan, None)
        for cidr, reason in (("10.244.8.0/24", "has other pod subnets now"), ("10.5.1.0/24", "doesn't contain")):
            server.patch(name, {"spec": {"podCIDR": cidr, "podCIDRs": [cidr]}})
            with pytest.raises(LeaseWithdrawn, match=reason):
                await store.renew(lease)
        assert annotations(server, name) == {}
        await store.close()

    run(work())


def test_a_404_that_is_not_of_the_api_server_loses_no_lease(server: Server, name: str, tmp_path: Path) -> None:
    """A load balancer's, say, while it has no server behind it."""
    kubeconfig = server.kubeconfig(tmp_path / "kubeconfig")
    kubeconfig.write_text(kubeconfig.read_text().replace(server.url, f"{server.url}/nowhere"))

    async def work() -> None:
        store = store_of(server, name, tmp_path, kubeconfig=kubeconfig)
        with pytest.raises(StoreError, match="404") as caught:
            await store.renew(Lease(IPv4Network("10.244.7.0/24"), None, vxlan))
        assert not isinstance(caught.value, LeaseLost | NoLease)
        await store.close()

    run(work())
