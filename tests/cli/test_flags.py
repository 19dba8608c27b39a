"""Flags: every form Go's flag package takes, the environment's place, what is refused and what is warned of.

Each test reads words as a user would type them through the real front of the command line.
"""

from __future__ import annotations

import argparse
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from dataplane.cli import flags, run, settings
from dataplane.daemon.options import Options


def read(*words: str, **environment: str) -> Options:
    parser = argparse.ArgumentParser(prog="dataplane run", allow_abbrev=False)
    flags.add_flags(parser)
    return settings.options(parser, parser.parse_args(run.prepare(words)), environment)


def refused(capsys: pytest.CaptureFixture[str], *words: str, **environment: str) -> str:
    with pytest.raises(SystemExit) as stop:
        read(*words, **environment)
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    return output.err


def test_defaults_are_flannels() -> None:
    options = read()
    assert options.subnet_file == Path("/run/flannel/subnet.env")
    assert options.net_config_path == Path("/etc/kube-flannel/net-conf.json")
    assert options.renew_margin == 3600
    assert (options.healthz_ip, options.healthz_port) == ("0.0.0.0", 0)
    assert options.iface == () and options.public_ip is None
    assert options.warnings == ()
    assert options.lease_dir == Path("/var/lib/dataplane")
    assert options.run_dir == Path("/run/dataplane")
    assert 1 <= options.workers <= 4
    assert options.spin_us == 50


@pytest.mark.parametrize(
    "words",
    [
        ["-iface=eth1"],
        ["--iface=eth1"],
        ["-iface", "eth1"],
        ["--iface", "eth1"],
    ],
)
def test_valued_flag_in_every_form(words: list[str]) -> None:
    assert read(*words).iface == ("eth1",)


def test_value_that_looks_like_a_flag_belongs_to_the_flag_before_it() -> None:
    assert read("-iface", "-odd", "--workers", "2").iface == ("-odd",)


def test_value_holding_an_equals_sign_is_kept_whole() -> None:
    assert read("--iface-regex=a=b").iface_regex == ("a=b",)


@pytest.mark.parametrize(("words", "value"), [(["-v=10"], 10), (["-v", "10"], 10), (["--v=0x10"], 16)])
def test_log_level(words: list[str], value: int) -> None:
    assert read(*words).verbosity == value


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("--log-json", True),
        ("-log-json", True),
        ("--log-json=false", False),
        ("--log-json=T", True),
        ("-log-json=0", False),
    ],
)
def test_boolean_forms(word: str, value: bool) -> None:
    assert read(word).log_json is value


def test_boolean_takes_no_separate_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unrecognized arguments: false" in refused(capsys, "--log-json", "false")


def test_repeated_flags_keep_their_order() -> None:
    assert read("--iface=b", "-iface", "a", "--iface-regex=^e").iface == ("b", "a")


def test_environment_stands_in_only_for_flags_not_given() -> None:
    options = read("--iface=eth0", FLANNELD_IFACE="eth9", FLANNELD_PUBLIC_IP="192.0.2.7")
    assert options.iface == ("eth0",)
    assert options.public_ip == IPv4Address("192.0.2.7")


def test_environment_sets_one_interface() -> None:
    assert read(FLANNELD_IFACE="eth0,eth1").iface == ("eth0,eth1",)


def test_empty_environment_is_unset() -> None:
    assert read(FLANNELD_HEALTHZ_PORT="", FLANNELD_IFACE="") == read()


def test_bad_environment_is_named_and_not_used() -> None:
    options = read(FLANNELD_HEALTHZ_PORT="many")
    assert options.healthz_port == 0
    assert any("FLANNELD_HEALTHZ_PORT" in warning and "many" in warning for warning in options.warnings)


@pytest.mark.parametrize(
    "words",
    [
        ["--healthz-port=70000"],
        ["--healthz-port=x"],
        ["--public-ip=fd00::1"],
        ["--public-ip=0.0.0.0"],
        ["--public-ip=127.0.0.1"],
        ["--public-ip=224.0.0.1"],
        ["--public-ip=255.255.255.255"],
        ["--public-ipv6=::"],
        ["--public-ipv6=::1"],
        ["--public-ipv6=ff02::1"],
        ["--public-ipv6=::ffff:192.0.2.1"],
        ["--run-dir="],
        ["--lease-dir="],
        ["--subnet-file="],
        ["--net-config-path="],
        ["--iface="],
        ["--iface-regex="],
        ["--subnet-lease-renew-margin=0"],
        ["--subnet-lease-renew-margin=1440"],
        ["--iface-regex=("],
        ["--datapath=fast"],
        ["--workers=17"],
        ["--spin-us=1001"],
        ["--no-such-flag"],
        ["--ifac=eth0"],
        ["word"],
        ["--iface"],
    ],
)
def test_wrong_usage_exits_2_and_says_so_on_stderr(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "error: " in refused(capsys, *words)


def test_empty_public_address_is_none() -> None:
    assert read("--public-ip=", "--public-ipv6=") == read()


def test_help_tells_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    text = " ".join(capsys.readouterr().out.split())
    for default in ("/run/flannel/subnet.env", "60", "50", "/run/dataplane", "auto", "false", "half of the CPUs"):
        assert f"(default: {default}" in text


def test_etcd_is_used_when_its_endpoints_are_given_anyhow() -> None:
    assert read().etcd is None
    by_flag = read("--etcd-endpoints=http://192.0.2.1:2379")
    assert by_flag.etcd is not None and by_flag.etcd.prefix == "/coreos.com/network"
    assert read(FLANNELD_ETCD_ENDPOINTS="http://192.0.2.1:2379").etcd == by_flag.etcd


def test_other_etcd_flags_alone_are_named_as_without_effect() -> None:
    options = read("--etcd-prefix=/x")
    assert options.etcd is None
    (warning,) = options.warnings
    assert "--etcd-prefix" in warning and "--etcd-endpoints" in warning


@pytest.mark.parametrize(
    "words", [["--etcd-endpoints=ftp://a:1"], ["--etcd-endpoints=http://a:1", "--etcd-certfile=c"]]
)
def test_etcd_flags_that_cannot_be_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "--etcd-" in refused(capsys, *words)


def test_kubernetes_is_used_when_it_is_asked_for() -> None:
    assert read().kube is None
    words = ("--kube-subnet-mgr", "--kubeconfig-file=/k", "--kube-annotation-prefix=org.com/9")
    kube = read(*words, "--set-node-network-unavailable=false", NODE_NAME="worker-1").kube
    assert kube is not None
    assert (kube.node_name, kube.kubeconfig, kube.prefix) == ("worker-1", Path("/k"), "org.com/9-")
    assert not kube.set_network_unavailable
    assert read(FLANNELD_KUBE_SUBNET_MGR="true", NODE_NAME="worker-1").kube is not None


def test_kubernetes_goes_before_etcd_and_says_so() -> None:
    options = read("--kube-subnet-mgr", "--etcd-endpoints=http://192.0.2.1:2379", NODE_NAME="n")
    assert options.kube is not None and options.etcd is None
    assert options.warnings == (
        "--etcd-endpoints is accepted without effect: leases are in Kubernetes (--kube-subnet-mgr)",
    )


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "env variables POD_NAME and POD_NAMESPACE must be set"),
        (("--kube-annotation-prefix=a/b/c",), "--kube-annotation-prefix"),
        (("--kube-api-url=192.0.2.1:6443",), "--kube-api-url"),
    ],
)
def test_kubernetes_flags_that_cannot_be_are_refused(
    words: tuple[str, ...], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {"NODE_NAME": "n"} if words else {}
    assert error in refused(capsys, "--kube-subnet-mgr", *words, **environment)


@pytest.mark.parametrize("word", ["--vmodule=a=2", "--log_backtrace_at=a:1", "--kube-api-url=http://192.0.2.1"])
def test_flag_without_its_feature_is_accepted_with_one_warning(word: str) -> None:
    (warning,) = read(word).warnings
    assert word.partition("=")[0] in warning


@pytest.mark.parametrize(
    "word", ["--ip-masq=false", "--iptables-forward-rules", "--kube-subnet-mgr=false", "--set-node-network-unavailable"]
)
def test_default_value_given_explicitly_is_no_matter(word: str) -> None:
    assert read(word).warnings == ()


flanneld_flags = {
    *(
        "etcd-endpoints",
        "etcd-prefix",
        "etcd-keyfile",
        "etcd-certfile",
        "etcd-cafile",
        "etcd-username",
        "etcd-password",
    ),
    *("iface", "iface-regex", "iface-can-reach", "public-ip", "public-ipv6", "subnet-file", "net-config-path"),
    *("subnet-lease-renew-margin", "ip-masq", "ip-masq-fully-random-disable", "healthz-ip", "healthz-port", "version"),
    *("kube-subnet-mgr", "kube-api-url", "kubeconfig-file", "kube-annotation-prefix", "set-node-network-unavailable"),
    *("iptables-resync", "iptables-forward-rules", "ip-blackhole-route", "v", "vmodule", "log_backtrace_at"),
}


def test_every_flag_of_flanneld_is_known() -> None:
    assert flanneld_flags <= {flag.name for flag in flags.flags}
