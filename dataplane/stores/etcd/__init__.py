"""The etcd lease store: the keys and values of flannel's etcd mode, beside flanneld nodes."""
