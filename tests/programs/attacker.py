"""Sends hostile datagrams; run inside a node's namespace: attacker.py FAMILY SOURCE TARGET PORT < lines of hex.

Each line of standard input is one datagram (`data HEX`), or several of one size in one go, that stay together on a link that
does not cut (`train HEX HEX …`); `random COUNT SEED` sends that many of random length and content.
"""

import random
import socket
import struct
import sys

family, source, target, port = sys.argv[1:]
sock = socket.socket(socket.AF_INET6 if family == "6" else socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((source, 0))
sent = 0
for line in sys.stdin:
    words = line.strip("\n").split(" ")
    if words[0] == "random":
        dice = random.Random(int(words[2]))
        for _ in range(int(words[1])):
            sock.sendto(dice.randbytes(dice.randrange(200)), (target, int(port)))
            sent += 1
    elif words[0] == "train":
        datagrams = [bytes.fromhex(word) for word in words[1:]]
        size = struct.pack("H", len(datagrams[0]))
        sock.sendmsg([b"".join(datagrams)], [(socket.IPPROTO_UDP, 103, size)], 0, (target, int(port)))  # UDP_SEGMENT
        sent += len(datagrams)
    else:
        sock.sendto(bytes.fromhex(words[1]), (target, int(port)))
        sent += 1
print(sent)
