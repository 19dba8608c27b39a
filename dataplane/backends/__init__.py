"""What a lease means for this node, backend by backend. Pure: no I/O."""
