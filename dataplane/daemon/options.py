"""The daemon's settings after flags and environment have been read: plain typed values, complete and checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Self

from dataplane.stores.etcd.access import EtcdAccess
from dataplane.stores.kube.access import KubeAccess


@dataclass(frozen=True, slots=True)
class Options:
    """What `dataplane run` was asked for (names and meaning: flannel main.go, where flannel has them).

    Attributes:
        iface, iface_regex, iface_can_reach, public_ip, public_ipv6: how to find the external interface.
        renew_margin: seconds before its expiry at which the lease is renewed.
        healthz_port: TCP port of /healthz, /readyz and /metrics; 0: none.
        lease_dir: directory of the embedded store, used without `kube` and `etcd`.
        kube: the cluster whose Nodes are the leases, None: leases are elsewhere.
        etcd: where leases are, None: in the embedded store, or in Kubernetes.
        run_dir: directory of the status socket and the pid file; one daemon each.
        takeover: take over from the daemon that has the run directory, if there is one.
        leave_tun: TUN devices stay when the daemon ends, for the next one.
        masquerade, forward, random_fully: which firewall rules are made (host/firewall/rules.py).
        resync_s: seconds between two looks at firewall rules and blackhole routes.
        blackhole: keep a blackhole route for our own subnet.
        datapath: "auto", "kernel" or "userspace".
        workers: TUN queues, each with a thread of its own.
        spin_us: how long a worker without work polls before it sleeps, microseconds (docs/decisions/0008).
        verbosity: klog's level; above 0 also debug messages are written.
        warnings: what was accepted although its feature is not built yet, one sentence each.
    """

    iface: tuple[str, ...]
    iface_regex: tuple[str, ...]
    iface_can_reach: str
    public_ip: IPv4Address | None
    public_ipv6: IPv6Address | None
    subnet_file: Path
    net_config_path: Path
    renew_margin: float
    healthz_ip: str
    healthz_port: int
    lease_dir: Path
    kube: KubeAccess | None
    etcd: EtcdAccess | None
    run_dir: Path
    takeover: bool
    leave_tun: bool
    masquerade: bool
    forward: bool
    random_fully: bool
    resync_s: float
    blackhole: bool
    datapath: str
    workers: int
    spin_us: int
    verbosity: int
    log_json: bool
    warnings: tuple[str, ...] = ()

    def at(self, address: IPv4Address | None, address6: IPv6Address | None) -> Self:
        """Return the same with what the store has set as our addresses, in place of the flags'."""
        return replace(self, public_ip=address or self.public_ip, public_ipv6=address6 or self.public_ipv6)
