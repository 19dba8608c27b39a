"""What the Kubernetes store writes on our Node and reads there: flannel's bytes, and nothing of anybody else's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

import pytest

from dataplane.errors import BadConfig, BadInput, LeaseLost, LeaseWithdrawn, NoLease, StoreError
from dataplane.lab.commands import wait_for
from dataplane.model import Lease, LeaseAttrs, LeaseGone, LeasePut, Snapshot, WatchEvent
from dataplane.stores.kube.condition import rest_s
from dataplane.stores.kube.store import KubeStore
from tests.apiserver.access import Rule
from tests.apiserver.process import Server, service_account
from tests.stores.kube.places import annotations, dual, mac, run, store_of, until, vxlan

flannels = {
    "kube-subnet-manager": "true",
    "backend-type": "vxlan",
    "backend-data": f'{{"VNI":1,"VtepMAC":"{mac}"}}',
    "public-ip": "192.0.2.1",
}


def patches(server: Server, name: str) -> int:
    return sum(request["method"] == "PATCH" and f"/{name}/" in request["url"] for request in server.requests())


def acquire(store: KubeStore, attrs: LeaseAttrs = vxlan) -> Lease:
    async def work() -> Lease:
        try:
            return await store.acquire(attrs, None)
        finally:
            await store.close()

    return run(work())


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


# Afterwards


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


def test_the_network_is_announced_beside_the_other_conditions(server: Server, name: str, tmp_path: Path) -> None:
    before = server.add_node(name, "10.244.7.0/24")

    async def work(wanted: bool) -> None:
        store = store_of(server, name, tmp_path, set_network_unavailable=wanted)
        await store.acquire(vxlan, None)
        if wanted:
            async with announcing(store):
                await shown(server, name, "False")
        else:
            await store.announce()
        await store.close()

    run(work(False))
    assert server.node(name)["status"] == before["status"]
    run(work(True))
    status = server.node(name)["status"]
    ready, network = status["conditions"]
    assert ready == before["status"]["conditions"][0]
    assert status["addresses"] == before["status"]["addresses"]
    times = {network.pop("lastHeartbeatTime"), network.pop("lastTransitionTime")}
    assert len(times) == 1
    assert network == {
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": "FlannelIsUp",
        "message": "Flannel is running on this node",
    }


def test_a_node_made_anew_is_annotated_and_announced_at_once(server: Server, name: str, tmp_path: Path) -> None:
    server.add_node(name, "10.244.71.0/24")

    async def work() -> None:
        store = store_of(server, name, tmp_path)
        lease = await store.acquire(vxlan, None)
        async with watching(store) as events, announcing(store):
            await until(events, Snapshot)
            await shown(server, name, "False")
            begun = time.monotonic()
            await asyncio.to_thread(server.delete_node, name)
            await asyncio.to_thread(server.add_node, name, "10.244.71.0/24")
            assert (await until(events, LeaseGone)).key == lease.key
            await shown(server, name, "False")
            assert time.monotonic() - begun < rest_s / 2  # the last one was written a moment ago
            anew = await store.renew(lease)
            assert (anew.key, anew.attrs) == (lease.key, lease.attrs)
            assert annotations(server, name) == flannels
        await store.close()

    run(work())


def test_a_node_made_anew_behind_our_back_is_announced(server: Server, name: str, tmp_path: Path) -> None:
    """All that is seen of it is a list, without its conditions and with the annotations that it had."""
    server.add_node(name, "10.244.72.0/24")

    async def work() -> None:
        store = store_of(server, name, tmp_path)
        await store.acquire(vxlan, None)
        async with watching(store), announcing(store):
            await shown(server, name, "False")
        before = server.node(name)["metadata"]["annotations"]
        server.delete_node(name)
        server.add_node(name, "10.244.72.0/24", annotations=before)
        server.pull("compact")
        async with announcing(store):
            await shown(server, name, "False")  # as at a start
            server.delete_node(name)
            server.add_node(name, "10.244.72.0/24", annotations=before)
            server.pull("compact")
            async with watching(store):
                await shown(server, name, "False")
        await store.close()

    run(work())


def test_a_node_that_goes_before_it_is_announced_is_announced_once_it_is_back(
    server: Server, name: str, tmp_path: Path
) -> None:
    server.add_node(name, "10.244.74.0/24")

    async def work() -> None:
        store = store_of(server, name, tmp_path)
        await store.acquire(vxlan, None)
        async with watching(store) as events:
            await until(events, Snapshot)
            await asyncio.to_thread(server.delete_node, name)
            before = patches(server, name)
            async with announcing(store):
                await asyncio.to_thread(wait_for, lambda: patches(server, name) > before, 20, "the first attempt")
                begun = time.monotonic()
                await asyncio.to_thread(server.add_node, name, "10.244.74.0/24")
                await shown(server, name, "False")
                assert time.monotonic() - begun < rest_s / 2
        await store.close()

    run(work())


def test_another_that_denies_our_network_is_answered_at_a_measured_pace(
    server: Server, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataplane.stores.kube.condition.rest_s", 1.0)
    server.add_node(name, "10.244.73.0/24")

    async def work() -> None:
        store = store_of(server, name, tmp_path)
        await store.acquire(vxlan, None)
        before = patches(server, name)
        begun = time.monotonic()
        async with watching(store), announcing(store):
            for _ in range(4):
                await shown(server, name, "False")
                await asyncio.to_thread(deny_network, server, name)
            await shown(server, name, "False")
            took = time.monotonic() - begun
            assert took > 3.9
            assert patches(server, name) - before <= 1 + took
            # And where nobody denies it nothing is written.
            version = server.node(name)["metadata"]["resourceVersion"]
            await asyncio.to_thread(server.annotate, name, {"volumes.kubernetes.io/x": "z"})
            await asyncio.to_thread(server.annotate, name, {"volumes.kubernetes.io/x": "y"})
            await asyncio.sleep(1.5)  # longer than the rest
            assert int(server.node(name)["metadata"]["resourceVersion"]) == int(version) + 2
        await store.close()

    run(work())


def deny_network(server: Server, name: str) -> None:
    """Write the condition as a cloud's route controller does that has made no route."""
    server.patch(f"{name}/status", {"status": {"conditions": [{"type": "NetworkUnavailable", "status": "True"}]}})


async def shown(server: Server, name: str, status: str) -> None:
    """Wait until the Node has the condition NetworkUnavailable with this status."""

    def there() -> bool:
        conditions = server.node(name)["status"]["conditions"]
        return [one["status"] for one in conditions if one["type"] == "NetworkUnavailable"] == [status]

    await asyncio.to_thread(wait_for, there, 20, f"NetworkUnavailable {status}")


@asynccontextmanager
async def announcing(store: KubeStore) -> AsyncGenerator[None, None]:
    task = asyncio.create_task(store.announce())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def watching(store: KubeStore) -> AsyncGenerator[AsyncGenerator[WatchEvent, None], None]:
    """Have the watch go on, as in the daemon, and yield its events."""
    queue: asyncio.Queue[WatchEvent] = asyncio.Queue()

    async def follow() -> None:
        async with aclosing(store.watch()) as events:
            async for event in events:
                queue.put_nowait(event)

    async def told() -> AsyncGenerator[WatchEvent, None]:
        while True:
            yield await queue.get()

    task = asyncio.create_task(follow())
    try:
        async with aclosing(told()) as events:
            yield events
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# Rights and names


def test_who_may_not_patch_is_told_so(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "server"
    directory.mkdir()
    rules = {service_account: (Rule(("",), ("nodes",), ("get", "list", "watch")),)}
    with Server(directory, rules=rules) as server:
        server.add_node(name, "10.244.7.0/24")
        with pytest.raises(
            StoreError,
            match=f'User "{service_account}" cannot patch resource "nodes/status".*allow to patch nodes/status$',
        ):
            acquire(store_of(server, name, tmp_path))


@pytest.mark.parametrize(
    ("verbs", "right"), [((), "get nodes"), (("get",), "list nodes"), (("get", "list"), "watch nodes")]
)
def test_a_missing_right_is_named_as_a_role_gives_it(
    tmp_path: Path, name: str, verbs: tuple[str, ...], right: str
) -> None:
    directory = tmp_path / "server"
    directory.mkdir()
    with Server(directory, rules={service_account: (Rule(("",), ("nodes",), verbs),)}) as server:
        server.add_node(name, "10.244.7.0/24")

        async def work() -> None:
            store = store_of(server, name, tmp_path)
            try:
                await store.addresses()
                async with aclosing(store.watch()) as events:
                    async for _ in events:
                        pass
            finally:
                await store.close()

        with pytest.raises(StoreError, match=f"; our ClusterRole must allow to {right}$"):
            run(work())


def test_a_pod_knows_its_node(server: Server, name: str, tmp_path: Path) -> None:
    # The rule for pods is not among the usual ones.
    directory = tmp_path / "server"
    directory.mkdir()
    rules = {service_account: (Rule(("",), ("nodes", "pods"), ("get",)), Rule(("",), ("nodes/status",), ("patch",)))}
    with Server(directory, rules=rules) as own:
        own.add_node(name, "10.244.7.0/24")
        own.add_pod("kube-flannel", "flannel-abc", name)
        store = store_of(own, "", tmp_path, pod_namespace="kube-flannel", pod_name="flannel-abc")
        assert acquire(store).subnet == IPv4Network("10.244.7.0/24")
        assert annotations(own, name) == flannels


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "it is no kubeconfig"),
        ("a: b", "it is no kubeconfig"),
        (":::", "it is no kubeconfig"),
        ('{"clusters":[],"contexts":[],"users":[]}', "No current context"),
        ("SERVER nonsense://", "server 'nonsense://' is no URL"),
        ("CA /nowhere/ca.crt", "a certificate or key that it names: No such file"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named(server: Server, tmp_path: Path, text: str, error: str) -> None:
    path = server.kubeconfig(tmp_path / "kubeconfig")
    match text.split():
        case ["SERVER", url]:
            path.write_text(path.read_text().replace(server.url, url))
        case ["CA", file]:
            path.write_text(path.read_text().replace(str(server.certificate), file))
        case _:
            path.write_text(text)
    with pytest.raises(BadInput, match=error) as caught:
        store_of(server, "us", tmp_path, kubeconfig=path)
    assert f"--kubeconfig-file {path}" in str(caught.value)
