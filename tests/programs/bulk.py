"""Sends super-packets whose payload is full of what could be a VXLAN header: bulk.py tcp|udp receive|send ADDRESS.

The receiver prints "ready", and "whole" when everything has come as it was sent. 8 MB by TCP; by UDP one send of 40 datagrams of
1,200 bytes, which are cut as late as the way allows.
"""

import socket
import sys

protocol, role, address = sys.argv[1:]
port, cut = 7000, 1200
# VNI 1, at every place of a step of any segment's length.
payload = (b"\x08\0\0\0\0\0\1" + bytes(10)) * (500_000 if protocol == "tcp" else 2_800)
kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as sock:
    sock.settimeout(200)
    if role == "send":
        sock.connect((address, port))
        if protocol == "udp":
            sock.setsockopt(socket.IPPROTO_UDP, 103, cut)  # linux/udp.h UDP_SEGMENT
        sock.sendall(payload)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        if protocol == "tcp":
            sock.listen()
        print("ready", flush=True)
        stream = sock.accept()[0] if protocol == "tcp" else sock
        stream.settimeout(200)
        came = b""
        while len(came) < len(payload):
            came += stream.recv(1 << 20)
        print("whole" if came == payload else "damaged")
