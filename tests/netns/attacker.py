"""Sends hostile datagrams; run inside a node's namespace: attacker.py FAMILY SOURCE TARGET PORT < lines of hex.

Each line of standard input is one datagram (`data HEX`); `random COUNT SEED` sends that many of random length and content.
"""

import random
import socket
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
    else:
        sock.sendto(bytes.fromhex(words[1]), (target, int(port)))
        sent += 1
print(sent)
