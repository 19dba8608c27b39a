"""The chart, rendered by helm: what values come to in net-conf.json, in flags and in the pod; wrong values are refused."""

from __future__ import annotations

import json
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

from dataplane.backends import from_conf
from dataplane.backends.base import Backend
from dataplane.backends.hostgw import HostGwBackend
from dataplane.backends.udp import UdpBackend
from dataplane.backends.vxlan import VxlanBackend
from dataplane.flannel.net_conf import parse, validate
from dataplane.model import NetConf
from tests.deploy.rendering import (
    chart,
    check_model,
    daemon,
    helm,
    install_options,
    installer,
    options,
    pod_spec,
    render,
    root,
    template,
)

v6_network = 'podCidrv6="fd00:244::/48"'
variants: dict[str, tuple[str, ...]] = {
    "default": (),
    "host-gw": ('flannel.backend="host-gw"',),
    "udp": ('flannel.backend="udp"', "flannel.backendPort=18285"),
    "vxlan": (
        "flannel.vni=9999999",
        "flannel.backendPort=4789",
        "flannel.mtu=9000",
        "flannel.directRouting=true",
        'flannel.datapath="userspace"',
        "flannel.workers=2",
    ),
    "kernel": ('flannel.datapath="kernel"', "flannel.GBP=true", "flannel.enableNFTables=true"),
    "dual stack": (v6_network,),
    "IPv6 alone": ('podCidr=""', v6_network),
    "node": (
        'flannel.cniBinDir="/usr/libexec/cni"',
        'flannel.cniConfDir="/var/lib/cni/conf"',
        'flannel.nodeSelector={"role":"edge"}',
        "flannel.tolerations=[]",
        'flannel.podAnnotations={"io.kubernetes.cri-o.Devices":"/dev/net/tun"}',
        'flannel.image={"repository":"registry.example/net/dataplane","tag":"1","pullPolicy":"Never"}',
        'global.imagePullSecrets=[{"name":"secret"}]',
        "flannel.healthz.port=0",
        "flannel.maxSurge=3",
        "flannel.skipCNIConfigInstallation=true",
    ),
    "privileged": ("flannel.privileged=true",),
}


def net_conf(variant: str) -> tuple[NetConf, Backend]:
    conf = validate(parse(render(*variants[variant])["ConfigMap"]["data"]["net-conf.json"]))
    return conf, from_conf(conf)


def mounts(container: dict[str, Any]) -> dict[str, str]:
    return {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}


def test_helm_finds_nothing_to_object_to() -> None:
    done = subprocess.run([str(helm), "lint", "--strict", str(chart)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


def test_version_and_image_are_the_distributions() -> None:
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == (version, version)
    assert daemon(render())["image"] == f"flannel-dataplane:{version}"


@pytest.mark.parametrize("variant", variants)
def test_kubernetes_knows_every_field(variant: str) -> None:
    for document in render(*variants[variant]).values():
        check_model(document)


@pytest.mark.parametrize("variant", variants)
def test_the_daemon_knows_every_flag(variant: str) -> None:
    given = options(daemon(render(*variants[variant])))
    assert given.masquerade and given.kube is not None and given.kube.node_name == "node-1"
    assert given.warnings == ()


def test_defaults_are_flannels() -> None:
    conf, backend = net_conf("default")
    assert str(conf.network) == "10.244.0.0/16" and not conf.enable_ipv6 and not conf.enable_nftables
    assert isinstance(backend, VxlanBackend)
    assert (backend.vni, backend.port, backend.underlay_mtu, backend.direct_routing) == (1, 8472, 0, False)
    cni = json.loads(render()["ConfigMap"]["data"]["cni-conf.json"])
    assert cni["name"] == "cbr0" and [plugin["type"] for plugin in cni["plugins"]] == ["flannel", "portmap"]


def test_vxlans_values_reach_the_backend_and_the_flags() -> None:
    _, backend = net_conf("vxlan")
    assert isinstance(backend, VxlanBackend)
    assert (backend.vni, backend.port, backend.underlay_mtu) == (9999999, 4789, 9000)
    assert backend.direct_routing and not backend.group_policy
    given = options(daemon(render(*variants["vxlan"])))
    assert (given.datapath, given.workers, given.healthz_port) == ("userspace", 2, 8081)


def test_the_kernels_datapath_needs_no_tun() -> None:
    conf, backend = net_conf("kernel")
    assert conf.enable_nftables and isinstance(backend, VxlanBackend) and backend.group_policy
    assert "tun" not in mounts(daemon(render(*variants["kernel"])))
    assert mounts(daemon(render()))["tun"] == "/dev/net/tun"


def test_host_gw_needs_no_tun() -> None:
    assert isinstance(net_conf("host-gw")[1], HostGwBackend)
    spec = pod_spec(render(*variants["host-gw"]))
    assert "tun" not in [volume["name"] for volume in spec["volumes"]]


def test_udp_takes_its_port_and_a_tun() -> None:
    _, backend = net_conf("udp")
    assert isinstance(backend, UdpBackend) and backend.port == 18285
    assert mounts(daemon(render(*variants["udp"])))["tun"] == "/dev/net/tun"


@pytest.mark.parametrize(("variant", "families"), [("default", (4,)), ("dual stack", (4, 6)), ("IPv6 alone", (6,))])
def test_families_follow_the_networks(variant: str, families: tuple[int, ...]) -> None:
    conf, backend = net_conf(variant)
    assert isinstance(backend, VxlanBackend) and backend.families == families
    assert conf.enable_ipv4 == (4 in families) and conf.enable_ipv6 == (6 in families)


def test_what_belongs_to_the_node_can_be_chosen() -> None:
    documents = render(*variants["node"])
    spec = pod_spec(documents)
    paths = {volume["name"]: volume.get("hostPath", {}).get("path") for volume in spec["volumes"]}
    assert paths["cni-plugin"] == "/usr/libexec/cni" and "cni" not in paths
    assert mounts(installer(documents)) == {"cni-plugin": "/opt/cni/bin"}
    assert install_options(installer(documents)).conf is None
    assert spec["nodeSelector"] == {"role": "edge"} and "tolerations" not in spec
    assert spec["imagePullSecrets"] == [{"name": "secret"}]
    template_metadata = documents["DaemonSet"]["spec"]["template"]["metadata"]
    assert template_metadata["annotations"] == {"io.kubernetes.cri-o.Devices": "/dev/net/tun"}
    for container in (daemon(documents), installer(documents)):
        assert (container["image"], container["imagePullPolicy"]) == ("registry.example/net/dataplane:1", "Never")
    assert options(daemon(documents)).healthz_port == 0
    assert not {"ports", "startupProbe", "livenessProbe", "readinessProbe"} & set(daemon(documents))
    assert documents["DaemonSet"]["spec"]["updateStrategy"]["rollingUpdate"] == {"maxSurge": 3, "maxUnavailable": 0}


def test_cni_directories_are_those_of_the_node() -> None:
    documents = render('flannel.cniConfDir="/var/lib/cni/conf"')
    (cni,) = (volume for volume in pod_spec(documents)["volumes"] if volume["name"] == "cni")
    assert cni["hostPath"]["path"] == "/var/lib/cni/conf"
    assert mounts(installer(documents))["cni"] == "/etc/cni/net.d"


def test_privileged_says_nothing_that_contradicts_it() -> None:
    """The API server refuses a privileged container with allowPrivilegeEscalation false."""
    documents = render(*variants["privileged"])
    for container in (daemon(documents), installer(documents)):
        assert container["securityContext"] == {"privileged": True, "readOnlyRootFilesystem": True}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (('podCidr="10.244.0.0"',), "podCidr"),
        (('podCidr="10.244.0.300/16"',), "podCidr"),
        (('podCidr="fd00::/48"',), "podCidr"),
        (('podCidrv6="10.244.0.0/16"',), "podCidrv6"),
        (('podCidr=""',), "podCidr"),
        (('flannel.backend="wireguard"',), "flannel/backend"),
        (('flannel.datapath="fast"',), "flannel/datapath"),
        (("flannel.vni=10000000",), "flannel/vni"),
        (("flannel.backendPort=65536",), "flannel/backendPort"),
        (("flannel.workers=17",), "flannel/workers"),
        (('flannel.cniBinDir="opt/cni/bin"',), "flannel/cniBinDir"),
        (('flannel.args="--ip-masq"',), "flannel/args"),
        (('flannel.privileged="yes"',), "flannel/privileged"),
        (("flannel.maxSurge=0",), "flannel/maxSurge"),
        (('flannel.maxSurge="0%"',), "flannel/maxSurge"),
        (('flannel.maxSurge="many"',), "flannel/maxSurge"),
        (("flannel.vnii=5",), "vnii"),
        (("netpol.enabled=true",), "netpol"),
        ((v6_network, "flannel.vni=10000"), "flannel.vni"),
        (('flannel.backend="udp"', "flannel.directRouting=true"), "flannel.directRouting"),
        (('flannel.backend="udp"', 'flannel.datapath="kernel"'), "flannel.datapath"),
        (("flannel.GBP=true",), "flannel.GBP"),
        (('flannel.backend="host-gw"', "flannel.backendPort=1"), "flannel.backendPort"),
    ],
)
def test_wrong_values_are_refused_by_name(values: tuple[str, ...], named: str) -> None:
    done = template(*values)
    assert done.returncode != 0
    assert named in done.stderr
