"""The masquerade, forward and encapsulation rules: what they are, in nftables and in iptables, and notices of their changes."""
