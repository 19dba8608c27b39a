"""Sends whole Ethernet frames; run inside a namespace: raw_frames.py DEVICE < lines of hex."""

import socket
import sys

with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
    sock.bind((sys.argv[1], 0))
    for line in sys.stdin:
        sock.send(bytes.fromhex(line))
