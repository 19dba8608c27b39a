"""Where packets enter and leave the forwarder: TUN, TAP, UDP sockets, and what ICMP says of them."""
