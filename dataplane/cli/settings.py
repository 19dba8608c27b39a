"""From flags and environment to the daemon's settings: what was given, what stands in for it, what has no effect.

What must stay true: a flag goes before its environment variable; what cannot be is refused, what has no effect is named.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from dataplane.cli.flags import by_name, default_workers, flags
from dataplane.daemon.options import Options
from dataplane.errors import BadInput
from dataplane.stores.etcd import access as etcd_access
from dataplane.stores.etcd.access import EtcdAccess
from dataplane.stores.kube import access as kube_access
from dataplane.stores.kube.access import KubeAccess


def options(parser: argparse.ArgumentParser, args: argparse.Namespace, environment: Mapping[str, str]) -> Options:
    """Return the daemon's settings; what cannot be is refused through `parser.error` (exit code 2)."""
    given = {flag.name: getattr(args, flag.name) for flag in flags if hasattr(args, flag.name)}
    warnings: list[str] = []
    for flag in flags:
        text = environment.get(flag.variable, "")
        if flag.name in given or not text or flag.name == "version":
            continue
        try:
            value = flag.read(text)
        except ValueError as error:
            warnings.append(f"{flag.variable}: {error}; not used")
        else:
            given[flag.name] = [value] if flag.many else value
    for name, value in given.items():
        flag = by_name[name]
        if flag.absent and value != flag.default:
            warnings.append(f"--{name} is accepted without effect: {flag.absent}")
    values = {flag.name: given.get(flag.name, flag.default) for flag in flags}
    kube = _kube(parser, given, values, environment, warnings)
    etcd = _etcd(parser, given, values, warnings)
    return Options(
        iface=tuple(values["iface"]),
        iface_regex=tuple(values["iface-regex"]),
        iface_can_reach=values["iface-can-reach"],
        public_ip=values["public-ip"],
        public_ipv6=values["public-ipv6"],
        subnet_file=values["subnet-file"],
        net_config_path=values["net-config-path"],
        renew_margin=60.0 * values["subnet-lease-renew-margin"],
        healthz_ip=values["healthz-ip"],
        healthz_port=values["healthz-port"],
        lease_dir=values["lease-dir"],
        kube=kube,
        etcd=etcd,
        run_dir=values["run-dir"],
        takeover=values["takeover"],
        leave_tun=values["leave-tun"],
        masquerade=values["ip-masq"],
        forward=values["iptables-forward-rules"],
        random_fully=not values["ip-masq-fully-random-disable"],
        resync_s=float(values["iptables-resync"]),
        blackhole=values["ip-blackhole-route"],
        datapath=values["datapath"],
        workers=values["workers"] or default_workers(),
        spin_us=values["spin-us"],
        verbosity=values["v"],
        log_json=values["log-json"],
        warnings=tuple(warnings),
    )


def _kube(
    parser: argparse.ArgumentParser,
    given: Mapping[str, Any],
    values: Mapping[str, Any],
    environment: Mapping[str, str],
    warnings: list[str],
) -> KubeAccess | None:
    """Return what --kube-subnet-mgr and its like ask for; None, and a warning for each of the others, without it."""
    if not values["kube-subnet-mgr"]:
        warnings.extend(
            f"--{name} is accepted without effect: Kubernetes is used only with --kube-subnet-mgr"
            for name in ("kube-api-url", "kubeconfig-file", "kube-annotation-prefix", "set-node-network-unavailable")
            if values[name] != by_name[name].default
        )
        return None
    try:
        return kube_access.read_access(
            environment,
            api_url=values["kube-api-url"],
            kubeconfig=values["kubeconfig-file"],
            prefix=values["kube-annotation-prefix"],
            set_network_unavailable=values["set-node-network-unavailable"],
        )
    except BadInput as error:
        parser.error(str(error))


def _etcd(
    parser: argparse.ArgumentParser, given: Mapping[str, Any], values: Mapping[str, Any], warnings: list[str]
) -> EtcdAccess | None:
    """Return what --etcd-* ask for; None, and a warning for each of the others, where etcd is not to be used."""
    reason = "etcd is used only with --etcd-endpoints"
    if values["kube-subnet-mgr"]:
        reason = "leases are in Kubernetes (--kube-subnet-mgr)"
    if values["kube-subnet-mgr"] or "etcd-endpoints" not in given:
        warnings.extend(f"--{name} is accepted without effect: {reason}" for name in given if name.startswith("etcd-"))
        return None
    try:
        return etcd_access.read_access(
            values["etcd-endpoints"],
            values["etcd-prefix"],
            keyfile=values["etcd-keyfile"],
            certfile=values["etcd-certfile"],
            cafile=values["etcd-cafile"],
            username=values["etcd-username"],
            password=values["etcd-password"],
        )
    except BadInput as error:
        parser.error(str(error))
