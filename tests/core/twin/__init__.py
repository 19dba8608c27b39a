"""Plain-Python reference of the wire formats and of what the core does to packets: the slow twin.

Written for reading, not for speed: the C core is compared with it where scapy has no answer (flannel's checksum edge,
RFC 6040, cutting of super-packets), and it is itself compared with scapy and recorded packets. What must stay true:
decode functions return a value or raise `BadInput`, whatever bytes they are given.
"""
