"""Both ends of a steady exchange between two pods; see `steady.py`. Run by path with `python -I -S`, so that it starts at once.

    steady_program.py serve ADDRESS
    steady_program.py ask ADDRESS INTERVAL_MS

The asking end sends a numbered UDP datagram and a piece of a TCP stream every interval; the other end sends datagrams back and
counts. Both end when their input is closed, the other one when it has all of the stream, and print what they saw as JSON.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from contextlib import suppress

udp_port, tcp_port = 7001, 7002
grace_s = 3.0  # for the last answers
end_s = 20.0  # for the rest of the stream: a sender that had no answer for long waits as long again
piece = bytes(1200)
room_bytes = 4 << 20
so_rcvbufforce = 33  # asm-generic/socket.h


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _udp_socket(address: str) -> socket.socket:
    """A socket with room for what was held up on its way for seconds; what is lost is then lost before it."""
    udp = socket.socket(_family(address), socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room_bytes)
    with suppress(PermissionError):  # past net.core.rmem_max
        udp.setsockopt(socket.SOL_SOCKET, so_rcvbufforce, room_bytes)
    return udp


def _later(longest: float, since: float, now: float) -> float:
    return max(longest, now - since)


def serve(address: str) -> dict[str, float]:
    """Answer until the input is closed; return what arrived."""
    udp = _udp_socket(address)
    udp.bind((address, udp_port))
    listener = socket.create_server((address, tcp_port), family=_family(address))
    print("listening", flush=True)
    stream, _ = listener.accept()
    arrived, reordered, newest, got, longest = 0, 0, -1, 0, 0.0
    last = time.monotonic()
    ends = None
    watched = [sys.stdin, udp, stream]
    while ends is None or (stream in watched and time.monotonic() < ends):
        ready, _, _ = select.select(watched, [], [], None if ends is None else 0.05)
        now = time.monotonic()
        if udp in ready:
            data, peer = udp.recvfrom(2048)
            udp.sendto(data, peer)
            (number,) = struct.unpack_from("=q", data)
            arrived += 1
            reordered += number < newest
            newest = max(newest, number)
        if stream in ready:
            some = len(stream.recv(1 << 16))
            if some == 0:
                watched.remove(stream)
            got += some
            longest, last = _later(longest, last, now), now
        if sys.stdin in ready:
            watched.remove(sys.stdin)
            ends = now + end_s
    return {"arrived": arrived, "reordered": reordered, "tcp_bytes": got, "tcp_silence_s": longest}


def ask(address: str, interval_s: float) -> dict[str, object]:
    """Send until the input is closed; return what was answered."""
    udp = _udp_socket(address)
    udp.connect((address, udp_port))
    stream = socket.create_connection((address, tcp_port), timeout=10)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setblocking(False)
    print("asking", flush=True)
    sent, reordered, newest, longest, tcp_sent = 0, 0, -1, 0.0, 0
    answered: set[int] = set()
    error = ""
    begin = last = time.monotonic()
    ends = None
    while ends is None or (len(answered) < sent and time.monotonic() < ends):
        due = begin + sent * interval_s
        wait = max(0.0, due - time.monotonic()) if ends is None else 0.05
        ready, _, _ = select.select([udp, *([sys.stdin] if ends is None else [])], [], [], wait)
        now = time.monotonic()
        if udp in ready:
            try:
                (number,) = struct.unpack_from("=q", udp.recv(2048))
            except OSError:
                number = -1
            if number >= 0:
                answered.add(number)
                reordered += number < newest
                newest = max(newest, number)
                longest, last = _later(longest, last, now), now
        if sys.stdin in ready:
            ends = now + grace_s
            stream.shutdown(socket.SHUT_WR)
        if ends is None and now >= due:
            with suppress(OSError):
                udp.send(struct.pack("=q", sent) + piece)
            sent += 1
            try:
                with suppress(BlockingIOError):
                    tcp_sent += stream.send(piece)
            except OSError as broken:
                error = str(broken)
    lost = sorted(set(range(sent)) - answered)
    stream.close()
    return {
        "sent": sent, "lost": lost, "reordered": reordered, "silence_s": longest, "tcp_sent": tcp_sent, "tcp_error": error,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(serve(sys.argv[2]) if sys.argv[1] == "serve" else ask(sys.argv[2], float(sys.argv[3]) / 1000)))
