"""What the kernel loses of our packets, found by comparing its counters."""
