"""Offers packets; run inside a namespace.

    offers.py sink              takes in every datagram of port 7, counts it in Udp InErrors and forgets it; prints "ready"
    offers.py send ADDRESS COUNT SIZE SEGMENTS TTL GROW
                                COUNT datagrams to port 7 with SIZE bytes of payload, SEGMENTS of them in one super-packet, each
                                longer than the one before by GROW bytes
    offers.py frames DEVICE COUNT VNET HEX
                                a frame COUNT times past the host's stack, behind a virtio-net header (struct virtio_net_hdr)

What must stay true: what is sent is sent for sure; a full buffer is waited for.
"""

import ctypes
import signal
import socket
import struct
import sys

port = 7
udp_segment, packet_vnet_hdr, so_attach_filter = 103, 15, 26


def sink() -> None:
    code = ctypes.create_string_buffer(
        struct.pack("=HBBI", 6, 0, 0, 0), 8
    )  # return 0: nothing is kept, and each datagram is counted by itself
    for family in (socket.AF_INET, socket.AF_INET6):
        sock = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, so_attach_filter, struct.pack("HP", 1, ctypes.addressof(code)))
        sock.bind(("", port))
        opened.append(sock)
    print("ready", flush=True)
    signal.pause()


def send(address: str, count: int, size: int, segments: int, ttl: int, grow: int) -> None:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    if ":" in address:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    if segments > 1:
        sock.setsockopt(socket.IPPROTO_UDP, udp_segment, size)
    for number in range(count // segments):
        sock.sendto(bytes(size * segments + number * grow), (address, port))


def frames(device: str, count: int, vnet: str, frame: str) -> None:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.setsockopt(263, packet_vnet_hdr, 1)  # SOL_PACKET
    data = bytes.fromhex(frame)
    kind = 0x86DD if data[0] >> 4 == 6 else 0x0800
    for _ in range(count):
        sock.sendto(bytes.fromhex(vnet) + data, (device, kind))


opened: list[socket.socket] = []
match sys.argv[1:]:
    case ["sink"]:
        sink()
    case ["send", address, *numbers]:
        send(address, *map(int, numbers))
    case ["frames", device, count, vnet, frame]:
        frames(device, int(count), vnet, frame)
