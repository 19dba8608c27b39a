"""The lab's API server does what a real one does: what it says of versions, how it lists, forgets, refuses and is silent."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from dataplane.lab.commands import wait_for
from tests.apiserver.process import Server, first_token, service_account
from tests.stores.kube.places import prefix

nodes = "/api/v1/nodes"
streaming = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}


def ask(server: Server, path: str, timeout: float = 10.0, **query: object) -> http.client.HTTPResponse:
    """Send a GET as the service account, and return the answer when its head is there."""
    trust = ssl.create_default_context(cafile=str(server.certificate))
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=timeout, context=trust)
    headers = {"Authorization": f"Bearer {first_token}"}
    connection.request("GET", f"{path}?{urlencode(query)}", headers=headers)
    return connection.getresponse()


def get(server: Server, path: str, **query: object) -> dict[str, Any]:
    """Return what is answered; a Status too."""
    with closing(ask(server, path, **query)) as response:
        answer: dict[str, Any] = json.load(response)
        assert response.status == answer.get("code", 200)
        return answer


@contextmanager
def watch(server: Server, **query: object) -> Iterator[Iterator[dict[str, Any]]]:
    """Watch; yields the events."""
    with closing(ask(server, nodes, watch="true", allowWatchBookmarks="true", **query)) as response:
        assert response.status == 200
        yield (json.loads(line) for line in response)


def told(event: dict[str, Any]) -> tuple[str, str, int]:
    metadata = event["object"]["metadata"]
    return event["type"], metadata.get("name", ""), int(metadata["resourceVersion"])


def bookmark(version: int) -> tuple[str, str, int]:
    return "BOOKMARK", "", version


@pytest.fixture
def three(own_server: Server) -> Server:
    """A server with Nodes of the versions 2, 3 and 4."""
    for name in "abc":
        own_server.add_node(name)
    return own_server


@pytest.mark.parametrize("version", ["", "0", "3", "4"])
def test_a_streaming_list_is_all_there_is_a_bookmark_and_then_changes(three: Server, version: str) -> None:
    with watch(three, resourceVersion=version, **streaming) as events:
        assert [told(next(events)) for _ in range(3)] == [("ADDED", "a", 2), ("ADDED", "b", 3), ("ADDED", "c", 4)]
        end = next(events)
        assert told(end) == bookmark(4)
        assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        three.delete_node("b")
        assert told(next(events)) == ("DELETED", "b", 5)


@pytest.mark.parametrize("version", ["", "0"])
def test_a_watch_of_any_version_begins_with_all_there_is(three: Server, version: str) -> None:
    with watch(three, resourceVersion=version) as events:
        assert [told(next(events)) for _ in range(3)] == [("ADDED", "a", 2), ("ADDED", "b", 3), ("ADDED", "c", 4)]
        three.delete_node("b")
        assert told(next(events)) == ("DELETED", "b", 5)


def test_a_server_without_the_streaming_list(three: Server) -> None:
    three.pull("settings", watch_list=False)
    answer = get(three, nodes, watch="true", allowWatchBookmarks="true", resourceVersion="", **streaming)
    why = "Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
    assert (answer["code"], answer["reason"]) == (422, "Invalid")
    assert answer["message"] == f'ListOptions.meta.k8s.io "" is invalid: sendInitialEvents: {why}'
    assert answer["details"]["causes"] == [
        {"reason": "FieldValueForbidden", "message": why, "field": "sendInitialEvents"}
    ]


def test_a_version_that_is_not_there_yet_is_waited_for(three: Server) -> None:
    with ThreadPoolExecutor() as pool:
        listed = pool.submit(get, three, nodes, resourceVersion=5)
        read = pool.submit(get, three, f"{nodes}/a", resourceVersion=5)
        wait_for(lambda: len(three.requests()) == 2, 90, "both to be asked")
        assert not listed.done() and not read.done()
        three.add_node("d")
        assert listed.result()["metadata"]["resourceVersion"] == "5"
        assert read.result()["metadata"]["name"] == "a"


@pytest.mark.parametrize("path", [nodes, f"{nodes}/a"])
def test_a_version_that_does_not_come_is_refused(three: Server, path: str) -> None:
    begun = time.monotonic()
    answer = get(three, path, resourceVersion=104)
    assert 2.5 < time.monotonic() - begun < 6
    assert (answer["code"], answer["reason"]) == (504, "Timeout")
    assert answer["message"] == "Timeout: Too large resource version: 104, current: 4"
    assert answer["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


def test_a_streaming_list_of_a_version_that_does_not_come_is_refused_by_an_event(three: Server) -> None:
    with watch(three, resourceVersion=104, **streaming) as events:
        event = next(events)
        assert (event["type"], event["object"]["code"]) == ("ERROR", 504)
        assert list(events) == []


def test_the_log_tells_what_each_request_cost(three: Server) -> None:
    begun = time.time()
    get(three, nodes)
    get(three, nodes, resourceVersion=0)
    get(three, f"{nodes}/a", resourceVersion=4)
    get(three, f"{nodes}/z")
    with watch(three, resourceVersion=3) as events:
        next(events)
    *reads, watched = three.requests()
    assert [(told["verb"], told["source"], told["status"]) for told in reads] == [
        ("list", "quorum", 200),
        ("list", "cache", 200),
        ("get", "cache", 200),
        ("get", "quorum", 404),
    ]
    assert (watched["verb"], watched["source"], watched["status"]) == ("watch", "cache", 200)
    assert reads[0]["bytes"] > 3 * reads[2]["bytes"] > 0
    assert watched["bytes"] > reads[2]["bytes"]
    assert {told["user"] for told in reads} == {service_account}
    assert begun <= reads[0]["time"] <= watched["time"] <= time.time()


def test_pages_are_of_one_version_for_everybody_who_lists(three: Server) -> None:
    firsts = [get(three, nodes, limit=2, resourceVersion=0) for _ in range(2)]
    three.add_node("bb")
    for first in firsts:
        second = get(three, nodes, limit=2, **{"continue": first["metadata"]["continue"]})
        assert first["metadata"]["remainingItemCount"] == 1
        assert "continue" not in second["metadata"]
        assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"] == "4"
        assert [node["metadata"]["name"] for page in (first, second) for node in page["items"]] == ["a", "b", "c"]
    three.pull("compact")
    assert get(three, nodes, limit=2, **{"continue": firsts[0]["metadata"]["continue"]})["code"] == 410


def test_an_older_server_lists_any_version_in_one_answer(three: Server) -> None:
    three.pull("settings", limit_from_cache=False)
    assert len(get(three, nodes, limit=2, resourceVersion=0)["items"]) == 3
    assert len(get(three, nodes, limit=2)["items"]) == 2


def test_a_version_with_a_limit_is_that_version_alone(three: Server) -> None:
    assert get(three, nodes, limit=2, resourceVersion=3)["code"] == 410
    assert len(get(three, nodes, limit=2, resourceVersion=3, resourceVersionMatch="NotOlderThan")["items"]) == 2
    assert len(get(three, nodes, limit=2, resourceVersion=4)["items"]) == 2


# The watch cache's window


def test_what_is_older_than_the_window_is_expired(three: Server) -> None:
    three.pull("settings", window=2)
    with watch(three, resourceVersion=2) as events:
        assert [told(next(events)) for _ in range(2)] == [("ADDED", "b", 3), ("ADDED", "c", 4)]
        three.add_node("d")
        assert told(next(events)) == ("ADDED", "d", 5)
    with watch(three, resourceVersion=2) as events:
        event = next(events)
        assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
        assert event["object"]["message"] == "too old resource version: 2 (3)"
        assert list(events) == []
    three.pull("gone", **{"as": "status"})
    assert get(three, nodes, watch="true", resourceVersion=2)["reason"] == "Expired"


def test_the_window_begins_at_the_version_of_the_start(three: Server) -> None:
    three.kill()
    three.start()
    with watch(three, resourceVersion=3) as events:
        assert next(events)["object"]["code"] == 410
    with watch(three, resourceVersion=4) as events:
        three.add_node("d")
        assert told(next(events)) == ("ADDED", "d", 5)


def test_bookmarks_tell_of_versions_that_are_of_no_node(three: Server) -> None:
    three.pull("settings", bookmark_s=0.2)
    with watch(three, resourceVersion=4) as events:
        assert told(next(events)) == bookmark(4)
        three.add_pod("default", "other", "a")
        assert bookmark(5) in (told(next(events)) for _ in range(3))


def test_a_restored_server_whose_version_has_passed_the_former_one(three: Server) -> None:
    """Nothing tells a watch that two Nodes are gone: its version is one that the new server has seen, with other writes."""
    backup = three.snapshot()
    three.add_node("d")
    three.add_node("e")
    assert three.version() == 6
    three.restore(backup, past=6)
    assert (three.version(), [node["metadata"]["name"] for node in three.nodes()]) == (7, ["a", "b", "c"])
    with watch(three, resourceVersion=6) as events:
        three.add_node("f")
        assert told(next(events)) == ("ADDED", "f", 8)
    three.restore(backup)
    assert three.version() == 4


# Late, silent, refusing


def test_nobody_may_do_anything_while_rights_are_not_known(tmp_path: Path) -> None:
    directory = tmp_path / "server"
    directory.mkdir()
    because = 'clusterrole.rbac.authorization.k8s.io "flannel" not found'
    with Server(directory, settings={"forbid_s": 60.0, "forbid_because": because}) as server:
        server.add_node("a")
        answer = get(server, f"{nodes}/a")
        assert (answer["code"], answer["reason"]) == (403, "Forbidden")
        assert answer["message"] == (
            f'nodes "a" is forbidden: User "{service_account}" cannot get resource "nodes" in API group "" '
            f"at the cluster scope: RBAC: {because}"
        )
        assert get(server, nodes, watch="true")["code"] == 403
        server.pull("settings", forbid_s=0.0)
        assert get(server, f"{nodes}/a")["metadata"]["name"] == "a"
        server.settings = {"forbid_s": 0.5}
        server.kill()
        server.start()
        assert get(server, nodes)["message"].endswith("at the cluster scope")
        wait_for(lambda: "items" in get(server, nodes), 90, "the rights to be known")


def test_one_slow_answer(three: Server) -> None:
    three.pull("delay", verb="get", prefix=f"{nodes}/", seconds=2.0)
    with ThreadPoolExecutor() as pool, watch(three, resourceVersion=4) as events:
        begun = time.monotonic()
        slow = pool.submit(get, three, f"{nodes}/a")
        wait_for(lambda: len(three.requests()) == 2, 90, "it to be asked")
        get(three, nodes)
        three.add_node("d")
        assert told(next(events)) == ("ADDED", "d", 5)
        assert not slow.done()
        assert slow.result()["metadata"]["name"] == "a"
        assert time.monotonic() - begun >= 2.0
    three.pull("delay", verb="get", prefix=f"{nodes}/", seconds=0)
    begun = time.monotonic()
    get(three, f"{nodes}/a")
    assert time.monotonic() - begun < 1.5


def test_watches_that_a_proxy_swallowed(three: Server) -> None:
    three.pull("settings", bookmark_s=0.2)
    with watch(three, resourceVersion=4) as standing:
        assert told(next(standing)) == bookmark(4)
        three.pull("swallow", on=True)
        with closing(ask(three, nodes, 1.0, watch="true", allowWatchBookmarks="true", resourceVersion=4)) as response:
            assert response.status == 200
            three.add_node("d")
            with pytest.raises(TimeoutError):
                response.readline()
        assert get(three, f"{nodes}/d")["metadata"]["name"] == "d"
        three.pull("swallow", on=False)
        # One bookmark may have been under way when the lever was pulled, another have waited to be sent.
        assert ("ADDED", "d", 5) in (told(next(standing)) for _ in range(3))


# Many Nodes


def test_many_big_nodes(own_server: Server) -> None:
    server = own_server
    for size in (5_000, 20_000):
        server.pull("fill", nodes=300, size=size, first=size)
        listed = server.nodes()[-300:]
        assert len({node["spec"]["podCIDR"] for node in listed}) == 300
        for node in listed:
            assert 0.95 < len(json.dumps(node, separators=(",", ":"))) / size < 1.05
            assert node["metadata"]["annotations"][f"{prefix}kube-subnet-manager"] == "true"
    assert server.version() == 601


def test_the_heartbeats_of_all(own_server: Server) -> None:
    server = own_server
    server.pull("fill", nodes=20, size=5_000)
    server.pull("heartbeat", every_s=0.5, seconds=1.0)
    with watch(server, resourceVersion=21) as events:
        seen = [told(next(events)) for _ in range(20)]
    assert [(what, name) for what, name, _ in seen] == [("MODIFIED", f"node-{number:05}") for number in range(1, 21)]
    # Two of each in a second, and then no more.
    wait_for(lambda: server.version() > 21 + 30, 90, "the second heartbeats")
    assert server.version() <= 21 + 40
