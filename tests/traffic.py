"""Traffic of tests: a ping whose every answer is known, a flood, and UDP of which each datagram is accounted for."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

from dataplane.lab.commands import LabError, inside_of, wait_for
from dataplane.lab.topology import Place, Pod
from dataplane.lab.traffic import Ping, answer_limit_s


class LongPing:
    """A ping that goes on until it is stopped."""

    def __init__(self, namespace: str, address: str, interval: float = 0.01) -> None:
        words = ["ping", "-n", "-i", f"{interval:g}", address]
        self._process = subprocess.Popen(
            inside_of(namespace, words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._answered: set[int] = set()
        self._lines: list[str] = []
        self._sent = 0
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        # Always somebody reads the pipe: a full one would stop it.
        for line in self._process.stdout or ():
            if (answer := re.search(r"bytes from \S+ icmp_seq=(\d+)", line)) is not None:
                self._answered.add(int(answer[1]))
                continue
            self._lines.append(line)
            if (so_far := re.match(r"\d+/(\d+) packets", line)) is not None:  # received/sent
                self._sent = int(so_far[1])

    @property
    def answers(self) -> int:
        """How many there are so far."""
        return len(self._answered)

    def stop(self) -> Ping:
        """End it and return what it saw up to now: requests under way are waited for, as long as later ones get no answer."""
        try:
            self._process.send_signal(signal.SIGQUIT)  # it tells how many it has sent, and goes on
            wait_for(lambda: self._sent, answer_limit_s, "ping to tell what it has sent")
            with contextlib.suppress(LabError):
                wait_for(lambda: max(self._answered, default=0) > self._sent, answer_limit_s, "the last answers")
            lost = set(range(1, self._sent + 1)) - self._answered
        finally:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(answer_limit_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                raise LabError("ping did not end on SIGINT") from None
            self._reading.join()
        self._lines.append(f"without an answer: {sorted(lost)}\n")
        return Ping(self._sent, self._sent - len(lost), None, "".join(self._lines))


# UDP_SEGMENT (103): the kernel makes 64 datagrams of 32 bytes of each call.
_flood = """
import socket, sys, time
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((sys.argv[1], 9))
sock.setsockopt(socket.IPPROTO_UDP, 103, 32)
print("begun", flush=True)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    try:
        sock.send(bytes(2048))
    except ConnectionRefusedError:
        pass
"""


@contextlib.contextmanager
def flooded(namespace: str, address: str, longest_s: float = 60.0) -> Iterator[None]:
    """Send small datagrams from one socket of a namespace to a closed port, as many as the machine makes, while the block runs.

    Args:
        longest_s: after which the flood stops by itself.
    Raises:
        LabError: it did not begin, or had ended before the block had.
    """
    words = [sys.executable, "-c", _flood, address, f"{longest_s:g}"]
    process = subprocess.Popen(inside_of(namespace, words), stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None or process.stdout.readline() != "begun\n":
            raise LabError("the flood did not begin")
        yield
        if process.poll() is not None:
            raise LabError("the flood ended early")
    finally:
        process.kill()
        process.communicate()


def udp_counter(place: Place, version: int, name: str) -> int:
    """Return what a place's kernel counts of UDP: "NoPorts", "RcvbufErrors" (net/ipv4/proc.c)."""
    text = place.run("cat", "/proc/net/snmp" if version == 4 else "/proc/net/snmp6").stdout
    if version == 6:
        return int(dict(line.split() for line in text.splitlines())[f"Udp6{name}"])
    names, values = (line.split() for line in text.splitlines() if line.startswith("Udp:"))
    return int(dict(zip(names, values, strict=True))[name])


def expect_udp(
    one: Pod, other: Pod, version: int, *, amount: int, udp_mbps: float, length: int, reverse: bool = False
) -> None:
    """Send at least 500 datagrams, of which all but 1 % arrive at the pod.

    What its process had no time to read is in the socket's count, and no loss of ours: its buffer has room for 90.
    """
    receiver = one if reverse else other
    before = udp_counter(receiver, version, "RcvbufErrors")
    sent = one.iperf3(other, version, amount=amount, udp_mbps=udp_mbps, length=length, reverse=reverse)
    unread = udp_counter(receiver, version, "RcvbufErrors") - before
    assert sent.packets >= 500
    assert sent.lost_percent * sent.packets / 100 - unread < sent.packets / 100, sent
