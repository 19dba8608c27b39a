"""One checked transfer between two pods: transfer.py receive|send tcp|udp ADDRESS AMOUNT [RATE|SEGMENT].

tcp: AMOUNT bytes that the seed AMOUNT makes, at most RATE of them a second; udp: one UDP_SEGMENT send of AMOUNT bytes, cut by the kernel at SEGMENT. Both
ends print what they saw: for tcp length and digest of the stream, for udp those of each datagram in the order of arrival.
"""

import hashlib
import random
import socket
import sys

UDP_SEGMENT = 103  # linux/udp.h
SO_MAX_PACING_RATE = 47  # asm-generic/socket.h
PORT = 7000
patience_s = 90.0


def tell(data: bytes) -> None:
    print(len(data), hashlib.sha256(data).hexdigest())


role, protocol, address, amount = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
sock.settimeout(patience_s)
payload = random.Random(amount).randbytes(amount)
if role == "receive":
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, PORT))
    if protocol == "tcp":
        sock.listen()
    print("ready", flush=True)
    if protocol == "tcp":
        stream, _ = sock.accept()
        stream.settimeout(patience_s)
        parts = []
        while part := stream.recv(1 << 20):
            parts.append(part)
        tell(b"".join(parts))
    else:
        left = amount
        while left > 0:
            datagram = sock.recv(1 << 16)
            tell(datagram)
            left -= len(datagram)
elif protocol == "tcp":
    if len(sys.argv) > 5:
        sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, int(sys.argv[5]))
    sock.connect((address, PORT))
    sock.sendall(payload)
    sock.shutdown(socket.SHUT_WR)
    tell(payload)
else:
    segment = int(sys.argv[5])
    sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
    sock.sendto(payload, (address, PORT))
    for at in range(0, amount, segment):
        tell(payload[at : at + segment])
