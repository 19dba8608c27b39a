"""Opens the store that the flags name.

Only that one is imported: start must be quick, and those of extras need packages that need not be there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dataplane.daemon.options import Options
from dataplane.errors import BadInput
from dataplane.stores.base import Store


def open_store(options: Options) -> Store:
    """Return the store; raises `BadInput` where a package of its extra is missing."""
    if options.kube is not None:
        with _extra("kube", "--kube-subnet-mgr", "lightkube", "httpx2", "httpcore2", "yaml"):
            from dataplane.stores.kube.store import KubeStore

        return KubeStore(options.kube, options.net_config_path)
    if options.etcd is not None:
        with _extra("etcd", "--etcd-endpoints", "grpc", "google"):
            from dataplane.stores.etcd.store import EtcdStore

        return EtcdStore(options.etcd)
    from dataplane.stores.embedded.store import EmbeddedStore

    return EmbeddedStore(options.lease_dir, options.net_config_path)


@contextmanager
def _extra(name: str, flag: str, *packages: str) -> Iterator[None]:
    """Say of a missing package which extra brings it."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        raise BadInput(
            f"{flag} needs the extra [{name}], whose package {error.name} is not installed: "
            f"pip install 'flannel-dataplane[{name}]'"
        ) from None
