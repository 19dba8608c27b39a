"""What ends the daemon, and what is told and tried again; and that a host without descriptors is an error by name."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import tracemalloc  # noqa: F401 (pytest loads it to tell of a destructor's warning, which here it could not)
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest

from dataplane.errors import BadInput, CoreError, HostError, LeaseLost, StoreError
from dataplane.host import changes, command, ethtool, xfrm
from dataplane.host.edges import sockets
from dataplane.host.firewall import netfilter
from dataplane.host.netlink import Host
from dataplane.observe import notify
from dataplane.observe.state import NodeState
from dataplane.runtime import tasks
from dataplane.runtime.tasks import spawn

passing = [
    OSError(errno.EMFILE, "Too many open files"),
    BlockingIOError(errno.EAGAIN, "fork"),
    HostError("no"),
    StoreError("not now"),
    CoreError("dp_update", errno.ENOMEM, "no memory"),
    RuntimeError("can't start new thread"),
    MemoryError(),
    ExceptionGroup("group", [OSError(errno.ENOSPC, "full")]),
]


class Task:
    """Fails with each of these errors, then runs on."""

    def __init__(self, *errors: BaseException) -> None:
        self.left = list(errors)
        self.running = asyncio.Event()

    async def run(self) -> None:
        if self.left:
            raise self.left.pop(0)
        self.running.set()
        await asyncio.get_running_loop().create_future()


async def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (a dictionary has no event)
        await asyncio.sleep(0.01)


class Done(Exception):
    """The test is over."""


def run_until(state: NodeState, task: Task, check: Callable[[], Awaitable[None]]) -> None:
    """Run the task until it stays, make the check, and end it."""

    async def test() -> None:
        async with asyncio.timeout(200), asyncio.TaskGroup() as group:
            spawn(group, "example", state, task.run)
            await task.running.wait()
            await check()
            raise Done

    with pytest.raises(ExceptionGroup) as ended:
        asyncio.run(test())
    assert isinstance(tasks.first_error(ended.value), Done), ended.value


def test_a_trouble_that_may_pass_is_told_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks, "first_delay_s", 0.0)
    state = NodeState()

    async def check() -> None:
        assert state.blockers["task example"] == "task example failed: OSError: [Errno 24] Too many open files"

    with caplog.at_level(logging.ERROR):
        run_until(state, Task(*passing, *passing[:1] * 20), check)
    assert state.events["task_failures"] == len(passing) + 20
    assert len([record for record in caplog.records if "task example failed" in record.message]) == len(passing) + 1
    assert not any("example" in subject for subject in (*state.blockers, *state.notes))  # it is gone with the task


def test_one_failure_is_a_note_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "first_delay_s", 0.0)
    monkeypatch.setattr(tasks, "calm_s", 0.05)
    state = NodeState()

    async def check() -> None:
        assert state.notes["task example"] == "task example failed: OSError: [Errno 24] Too many open files"
        assert "task example" not in state.blockers
        await wait_until(lambda: not state.notes)

    run_until(state, Task(passing[0]), check)


@pytest.mark.parametrize("error", [LeaseLost("gone"), BadInput("wrong"), ExceptionGroup("group", [LeaseLost("gone")])])
def test_what_a_daemon_cannot_live_with_ends_it(error: Exception) -> None:
    async def test() -> None:
        async with asyncio.timeout(200), asyncio.TaskGroup() as group:
            spawn(group, "example", NodeState(), Task(error).run)

    with pytest.raises(ExceptionGroup) as ended:
        asyncio.run(test())
    assert isinstance(tasks.first_error(ended.value), LeaseLost | BadInput)


async def first(notices: object) -> None:
    async for _ in notices:  # type: ignore[attr-defined]
        return


async def ask_kernel() -> None:
    host = Host()
    try:
        await host.links()
    finally:
        await host.close()


async def call(function: Callable[..., object], *args: object) -> None:
    function(*args)


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Every descriptor of this process is in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open("/dev/null", os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 16, hard))
    try:
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            assert error.errno == errno.EMFILE
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)


# Of pyroute2, whose half-made socket has nothing to close.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "work",
    [
        lambda: command.ask("true"),
        lambda: first(changes.watch_changes(lambda: 0)),
        lambda: first(netfilter.watch_rules(())),
        lambda: call(ethtool.driver_of, "lo"),
        lambda: call(xfrm.has_output_policies),
        lambda: call(sockets.open_receive, IPv4Address("127.0.0.1"), 0, "lo", 1),
        lambda: call(sockets.open_sources, IPv4Address("127.0.0.1"), "lo", 1),
        lambda: call(notify.notify, "WATCHDOG=1"),
        ask_kernel,
    ],
)
def test_a_host_without_descriptors_is_a_host_error(
    work: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")

    async def test() -> None:
        with no_descriptors(), pytest.raises(HostError, match="Too many open files"):
            await work()

    asyncio.run(test())


def test_work_of_a_group_that_ends_at_once_leaves_no_complaint() -> None:
    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            spawn(group, "never begun", NodeState(), asyncio.Event().wait)  # type: ignore[arg-type]
            raise BadInput("wrong flag")

    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        with pytest.raises(BaseExceptionGroup):
            asyncio.run(scenario())
        gc.collect()
    assert [str(complaint.message) for complaint in complaints] == []
