"""The Kubernetes lease store: a Node is a lease."""
