"""Who may send into the kernel's vxlan device: a BPF filter in front of it, or a set of leased senders."""
