"""dataplane: a flannel node daemon whose UDP and VXLAN data plane runs in userspace."""
