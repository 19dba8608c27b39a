"""The only users of netlink, TUN and sockets: devices, addresses, routes, the external interface."""
