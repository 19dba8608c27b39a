"""The lease's way from the store's events to what the forwarding tables should hold, and our own lease kept ours."""
