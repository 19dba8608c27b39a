"""The node's kernel as the daemon uses it: TUN devices, sockets, links, addresses, routes, sysctls."""
