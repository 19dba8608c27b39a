"""What is read from the tools, and of the machine."""

from __future__ import annotations

import json

import pytest

from dataplane.lab.bench.metrics import metrics
from dataplane.lab.bench.quiet import read_busy
from dataplane.lab.bench.workloads import read_iperf3, read_step, workloads
from dataplane.lab.commands import LabError


def test_iperf3_and_udpload_are_read() -> None:
    intervals = [{"sum": {"bytes": 5e8, "omitted": True}}, {"sum": {"bytes": 1e9}}]
    text = json.dumps({"end": {"sum_received": {"bits_per_second": 8e9}}, "intervals": intervals})
    assert read_iperf3(text) == (8.0, 1.5e9)
    for bad in (
        "",
        "{}",
        '{"error": "unable to connect"}',
        text.replace("1000000000.0", "0").replace("500000000.0", "0"),
    ):
        with pytest.raises(LabError):
            read_iperf3(bad)
    step = read_step(1000, {"packets": 500, "seconds": 0.5}, {"packets": 499}, 0.1)
    assert (step.sent, step.received, step.loss) == (1000, 998, pytest.approx(0.002))


def test_cpu_time_counts_work_and_not_waiting() -> None:
    assert read_busy("cpu  100 10 200 5000 300 1 20 3 7 7\ncpu0 1 1 1\n") == pytest.approx(3.34)


def test_every_workload_gives_metrics_that_are_known() -> None:
    assert set(workloads) - {"rtt", "restart"} <= set(metrics)
    assert all(metric.key == key for key, metric in metrics.items())
