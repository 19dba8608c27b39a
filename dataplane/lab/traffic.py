"""Traffic between places of the lab: ping and iperf3, run as commands, their answers read into values.

What must stay true: every run is bounded in time, and loss is reported as numbers, never hidden in an exit code.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

from dataplane.lab.commands import CommandFailed, LabError, inside_of, run

iperf_port = 5201
answer_limit_s = 90.0


@dataclass(frozen=True, slots=True)
class Ping:
    """What one run of ping saw. `rtt_ms` is the average, None where no answer came; `text` is all it printed."""

    sent: int
    received: int
    rtt_ms: float | None
    text: str

    @property
    def ok(self) -> bool:
        """Everything that was sent was answered."""
        return self.sent > 0 and self.received == self.sent


def ping(
    namespace: str,
    address: str,
    *,
    count: int = 3,
    interval: float = 0.02,
    size: int | None = None,
    whole: bool = False,
    ttl: int | None = None,
    wait_s: float = 5.0,
    options: Sequence[str] = (),
) -> Ping:
    """Ping `address` from a namespace.

    Args:
        interval: seconds between requests.
        size: length of the whole IP packet in bytes, headers included.
        whole: forbid fragments (DF, and no fragmenting at the source).
        ttl: hop limit of the requests.
        wait_s: seconds to wait for the last answer; under one second ping may leave earlier, see below.
    """
    words = ["ping", "-n", "-c", str(count), "-i", f"{interval:g}", "-W", f"{wait_s:g}"]
    if size is not None:
        words += ["-s", str(size - (48 if ":" in address else 28))]
    if whole:
        words += ["-M", "do"]
    if ttl is not None:
        words += ["-t", str(ttl)]
    # Once anything was answered ping waits no longer than an interval or two round trips, which a busy machine may take
    # longer than, unless it has a deadline (whole seconds); then it sends more until `count` are answered.
    if wait_s >= 1:
        words += ["-w", str(math.ceil(count * interval + wait_s))]
    limit = count * max(interval, 0.1) + wait_s + 10
    done = run(namespace, *words, *options, address, check=False, timeout=limit)
    seen = read_ping(done.stdout + done.stderr)
    if seen.sent <= count:
        return seen
    answered = {int(number) for number in re.findall(r"bytes from \S+ icmp_seq=(\d+)", seen.text)}
    return replace(seen, sent=count, received=sum(number <= count for number in answered))


def read_ping(text: str) -> Ping:
    """Read what ping printed; raises `LabError` where it did not get as far as sending."""
    counts = re.search(r"(\d+) packets transmitted, (\d+) (?:packets )?received", text)
    if counts is None:
        raise LabError(f"ping did not run: {text.strip()}")
    rtt = re.search(r"min/avg/max/\w+ = [\d.]+/([\d.]+)/", text)
    return Ping(int(counts[1]), int(counts[2]), float(rtt[1]) if rtt else None, text)


@dataclass(frozen=True, slots=True)
class Throughput:
    """What one run of iperf3 moved.

    Attributes:
        gbps: payload that arrived, in 10^9 bit/s.
        retransmits: TCP segments sent again by the sender.
        lost_percent: UDP datagrams that did not arrive, 0 to 100.
        packets: UDP datagrams sent.
        document: everything iperf3 said.
    """

    gbps: float
    retransmits: int
    lost_percent: float
    packets: int
    document: dict[str, Any]


def iperf3(
    server: str,
    client: str,
    address: str,
    *,
    seconds: float = 1.0,
    amount: int | None = None,
    streams: int = 1,
    reverse: bool = False,
    udp_mbps: float | None = None,
    length: int | None = None,
    options: Sequence[str] = (),
) -> Throughput:
    """Run iperf3 between two namespaces, data flowing from client to server.

    Args:
        address: the server's, as the client reaches it.
        seconds: of data, rounded up to whole ones.
        amount: bytes of payload to send instead, however long that takes (at most some ten seconds).
        reverse: let the data flow from server to client.
        udp_mbps: UDP datagrams at this rate instead of TCP; `length` is then their payload in bytes.
    Raises:
        CommandFailed: iperf3 could not connect, or reported an error.
    """
    whole_seconds = max(1, -int(-seconds // 1))
    until = ["-t", str(whole_seconds)] if amount is None else ["-n", str(amount)]
    words = ["iperf3", "-c", address, "-p", str(iperf_port), *until, "-J", "-P", str(streams)]
    words += ["--connect-timeout", "3000"]
    if reverse:
        words.append("-R")
    if udp_mbps is not None:
        words += ["-u", "-b", f"{udp_mbps:g}M"]
    if length is not None:
        words += ["-l", str(length)]
    command = inside_of(server, ["iperf3", "-s", "-1", "-p", str(iperf_port), "--forceflush"])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as serving:
        try:
            _await_listening(serving.stdout)
            done = run(client, *words, *options, check=False, timeout=whole_seconds + 15)
            return _read_iperf3(done.stdout, " ".join(words), udp_mbps is not None)
        finally:
            serving.kill()


def _await_listening(lines: IO[str] | None) -> None:
    seen = []
    for line in lines or ():
        if "Server listening" in line:
            return
        seen.append(line.strip())
    raise CommandFailed(f"iperf3 -s did not start: {'; '.join(seen)}")


def _read_iperf3(text: str, command: str, udp: bool) -> Throughput:
    try:
        document: dict[str, Any] = json.loads(text)
    except ValueError:
        raise CommandFailed(f"{command}: no JSON: {text[-400:]}") from None
    if document.get("error"):
        raise CommandFailed(f"{command}: {document['error']}")
    end = document["end"]
    if udp:
        total = end["sum"]
        arrived = 1 - total["lost_percent"] / 100
        return Throughput(
            total["bits_per_second"] * arrived / 1e9, 0, total["lost_percent"], total["packets"], document
        )
    sent = end["sum_sent"]
    return Throughput(end["sum_received"]["bits_per_second"] / 1e9, sent.get("retransmits", 0), 0.0, 0, document)
