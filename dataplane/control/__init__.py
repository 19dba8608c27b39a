"""Between the leases and the keepers: events go to the tables at once, the host is looked at again and again."""
