"""A plain userspace peer: one socket, one TUN, one packet a read, buffers of one packet.

    plain_peer.py udp|vxlan DEVICE LOCAL PEER PORT MTU [OUR_MAC PEER_MAC]

Prints "ready" when the device exists, and for each line on stdin how many datagrams were larger than the MTU allows, and
how many came in all. What must stay true: as in flannel's proxy, a datagram that is larger than the buffer is lost.
"""

import fcntl
import os
import select
import socket
import struct
import sys

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000

kind, device, local, peer, port, mtu = *sys.argv[1:5], int(sys.argv[5]), int(sys.argv[6])
tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
sock.setblocking(False)
sock.bind((local, port))
header = b""
if kind == "vxlan":
    ours, theirs = (bytes.fromhex(word.replace(":", "")) for word in sys.argv[7:9])
    header = bytes([8, 0, 0, 0, 0, 0, 1, 0]) + theirs + ours + b"\x08\x00"
largest = mtu + len(header)
count = too_large = 0
print("ready", flush=True)
while True:
    readable, _, _ = select.select([tun, sock, sys.stdin], [], [])
    if tun in readable:
        sock.sendto(header + os.read(tun, mtu), (peer, port))
    if sock in readable:
        datagram = sock.recv(largest + 1)
        count += 1
        if len(datagram) > largest:
            too_large += 1
        else:
            os.write(tun, datagram[len(header) :])
    if sys.stdin in readable:
        if not sys.stdin.readline():
            break
        print(too_large, count, flush=True)
