"""Whether other nodes answer through the overlay: whom to ask, ICMP echo, what passes, and what that means."""
