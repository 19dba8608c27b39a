"""What may change under a daemon that runs, looked at for as long as it does: interface, configuration, what ICMP says."""
