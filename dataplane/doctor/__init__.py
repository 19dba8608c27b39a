"""What keeps this node from carrying packets: checks before and beside the daemon, each with the command that mends it."""
