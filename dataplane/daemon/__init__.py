"""The daemon's life: run, start, lease, one life, end."""
