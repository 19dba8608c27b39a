"""The installed CNI plugin, run as a container runtime runs it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.cni.host import Answer, CniHost


@pytest.fixture
def host(tmp_path: Path) -> CniHost:
    return CniHost(tmp_path)


def test_version_is_answered_in_the_version_asked(host: CniHost) -> None:
    said = json.loads(host.run("VERSION", {"cniVersion": "0.4.0"}).stdout)
    assert said["cniVersion"] == "0.4.0"
    assert said["supportedVersions"] == ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    assert json.loads(host.run("VERSION", text=b"").stdout)["cniVersion"] == "1.1.0"


def test_without_a_command_it_says_what_it_is(host: CniHost) -> None:
    said = host.run("", text=b"")
    assert (said.status, said.stdout) == (0, "")
    assert "CNI plugin flannel" in said.stderr and "1.1.0" in said.stderr


@pytest.mark.parametrize(
    ("command", "environment", "code", "says"),
    [
        ("ADD", {"CNI_NETNS": "", "CNI_PATH": ""}, 4, "missing in the environment of ADD: CNI_NETNS, CNI_PATH"),
        ("STATUS", {"CNI_PATH": ""}, 4, "CNI_PATH"),
        ("UNDO", {}, 4, "unknown CNI_COMMAND 'UNDO'"),
        ("ADD", {"CNI_CONTAINERID": "../../etc/passwd"}, 4, "invalid CNI_CONTAINERID"),
        ("DEL", {"CNI_CONTAINERID": ".hidden"}, 4, "invalid CNI_CONTAINERID"),
        ("DEL", {"CNI_CONTAINERID": "a:eth0"}, 4, "invalid CNI_CONTAINERID"),
        ("ADD", {"CNI_CONTAINERID": "c" * 201}, 4, "invalid CNI_CONTAINERID"),
        ("ADD", {"CNI_IFNAME": "../eth0"}, 4, "invalid CNI_IFNAME"),
        ("ADD", {"CNI_IFNAME": "sixteen_letters_"}, 4, "invalid CNI_IFNAME"),
        ("ADD", {"CNI_PATH": "/a:/b"}, 101, 'failed to find plugin "host-local" in path [/a /b]'),
        ("CHECK", {}, 7, "prevResult"),
        ("STATUS", {}, 1, "does not allow STATUS"),
        ("GC", {}, 1, "does not allow GC"),
    ],
)
def test_errors_have_the_specifications_codes(
    host: CniHost, command: str, environment: dict[str, str], code: int, says: str
) -> None:
    error = host.run(command, host.conf(), **environment).error
    assert (error["code"], error["cniVersion"]) == (code, "1.0.0")
    assert says in error["msg"]
    assert not host.data_dir.exists()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", 6),
        (b"\xff", 6),
        (b"[]", 6),
        (b'{"name": ', 6),
        (b"[" * 100_000, 6),
        (b'{"name": "n", "cniVersion": 5}', 1),
        (b"{}", 7),
    ],
)
def test_input_that_is_no_configuration(host: CniHost, text: bytes, code: int) -> None:
    assert host.run("ADD", text=text).error["code"] == code


def test_check_came_with_0_4_0(host: CniHost) -> None:
    error = host.run("CHECK", host.conf("0.3.1", prevResult={})).error
    assert (error["code"], error["msg"]) == (1, "cniVersion 0.3.1 does not allow CHECK")


def test_a_missing_subnet_env_is_worth_another_try_and_says_where_to_look(host: CniHost) -> None:
    host.subnet_file.unlink()
    error = host.run("ADD", host.conf()).error
    assert error["code"] == 11
    assert str(host.subnet_file) in error["msg"]
    assert "journalctl -u dataplane" in error["details"]
    assert host.run("STATUS", host.conf("1.1.0")).error["code"] == 50


def test_faults_of_input_that_nobody_thought_of_are_errors_too(host: CniHost) -> None:
    assert host.run("ADD", host.conf(subnetFile="a\0b")).error["code"] == 199


def test_add_keeps_what_the_delegate_was_given_and_del_gives_it_back(host: CniHost) -> None:
    assert host.add() in host.reserved()
    file = host.data_dir / "c1"
    assert (host.data_dir.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    kept = json.loads(file.read_text())
    assert kept.pop("dataplane") == {"interface": "eth0", "netns": "/run/netns/none", "args": ""}
    assert kept["type"] == "host-local" and kept["ipam"]["ranges"] == [[{"subnet": "10.1.17.0/24"}]]
    host.subnet_file.unlink()
    for _ in range(2):
        assert host.run("DEL", host.conf()) == Answer(0, "", "")
        assert (host.reserved(), host.states()) == (set(), set())


def test_what_flannels_plugin_left_is_deleted(host: CniHost) -> None:
    """Its file is the delegate's configuration and nothing else."""
    host.add()
    file = host.data_dir / "c1"
    kept = json.loads(file.read_text())
    del kept["dataplane"]
    file.write_text(json.dumps(kept))
    assert host.run("DEL", host.conf()).status == 0
    assert (host.reserved(), host.states()) == (set(), set())


def test_interfaces_of_one_container_are_kept_apart(host: CniHost) -> None:
    addresses = {name: host.add(interface=name) for name in ("eth0", "net1", "net2")}
    assert host.states() == {"c1", "c1:net1", "c1:net2"}
    for name in ("net1", "net1", "eth0", "eth0", "net2"):
        assert host.run("DEL", host.conf(), interface=name).status == 0
        addresses.pop(name, None)
        assert host.reserved() == set(addresses.values())
    assert host.states() == set()


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b'{"type": ', b"[]", b'{"type": 5}'])
def test_a_damaged_state_does_not_keep_the_address(host: CniHost, content: bytes) -> None:
    host.add()
    (host.data_dir / "c1").write_bytes(content)
    assert host.run("DEL", host.conf()).status == 0
    assert (host.reserved(), host.states()) == (set(), set())


def test_a_damaged_state_without_subnet_env_is_given_up_with_a_note(host: CniHost) -> None:
    host.add()
    (host.data_dir / "c1").write_bytes(b"")
    host.subnet_file.unlink()
    deleted = host.run("DEL", host.conf())
    assert (deleted.status, deleted.stdout) == (0, "")
    assert "c1 cannot be read" in deleted.stderr
    assert host.states() == set()


def test_what_a_killed_writer_left_goes_with_del(host: CniHost) -> None:
    host.data_dir.mkdir()
    for name in (".c1", ".c1:eth0", ".c2"):
        (host.data_dir / name).write_bytes(b'{"type"')
    assert host.run("DEL", host.conf()) == Answer(0, "", "")
    assert host.states() == {".c2"}


def test_without_its_state_on_disk_no_delegate_is_called(host: CniHost) -> None:
    host.data_dir.write_text("a file where the directory should be")
    host.script("recorder", "")
    error = host.run("ADD", host.conf("1.0.0", "recorder")).error
    assert error["code"] == 5 and f"cannot keep the state of container c1 in {host.data_dir}" in error["msg"]
    assert not (host.directory / "ADD.stdin").exists()


def test_check_needs_the_state_and_gives_the_delegate_the_result(host: CniHost) -> None:
    host.script("recorder", "echo checked >&2")
    result = {
        "cniVersion": "1.1.0",
        "ips": [{"address": "10.1.17.2/24", "gateway": "10.1.17.1"}, {"address": "fd00::2/64", "gateway": "fd00::1"}],
        "routes": [{"dst": "10.1.0.0/16"}, {"dst": "fd00::/48"}, {"dst": "0.0.0.0/0", "gw": "10.1.17.9"}],
    }
    conf = host.conf("1.1.0", "recorder", prevResult=result)
    unknown = host.run("CHECK", conf).error
    assert unknown["code"] == 104 and "eth0 of container c1" in unknown["msg"]
    assert host.run("ADD", host.conf("1.0.0", "recorder")).status == 0
    checked = host.run("CHECK", conf)
    assert (checked.status, checked.stdout, checked.stderr) == (0, "", "checked\n")
    given = host.given("CHECK")
    assert given["cniVersion"] == "1.1.0"
    assert [route["gw"] for route in given["prevResult"]["routes"]] == ["10.1.17.1", "fd00::1", "10.1.17.9"]


def test_what_the_delegate_says_reaches_the_runtime_unchanged(host: CniHost) -> None:
    said = '{ "code": 7,\n "msg": "no" }'
    host.script("recorder", f"printf '%s' '{said}'; echo why >&2; exit 3")
    for command in ("ADD", "DEL"):
        answer = host.run(command, host.conf("1.0.0", "recorder"), CNI_ARGS="K8S_POD_NAME=p")
        assert (answer.status, answer.stdout, answer.stderr) == (3, said, "why\n")
        assert "CNI_ARGS=K8S_POD_NAME=p\n" in (host.directory / f"{command}.env").read_text()
    assert host.states() == {"c1"}  # not deleted yet
    host.script("recorder", "")
    assert host.run("DEL", host.conf("1.0.0", "recorder", prevResult={"ips": []})).status == 0
    assert host.given("DEL")["prevResult"] == {"ips": []}
    assert host.states() == set()


def test_the_delegate_starts_as_if_the_runtime_had_started_it(host: CniHost) -> None:
    """No descriptor of ours but stdin, stdout and stderr, and no signal ignored."""
    seen = host.directory / "seen"
    host.script("recorder", f"ls /proc/$$/fd > {seen}; grep SigIgn /proc/$$/status >> {seen}")
    for command in ("ADD", "DEL"):
        assert host.run(command, host.conf("1.0.0", "recorder")).status == 0
        descriptors, _, ignored = seen.read_text().rpartition("SigIgn:")
        assert set(descriptors.split()) <= {"0", "1", "2", "10", "11"}  # the last two are the shell's
        assert int(ignored, 16) & 0x7FFFFFFF == 0  # beyond are the C library's own


def test_a_delegate_that_dies_without_a_word_is_named(host: CniHost) -> None:
    host.script("recorder", "")
    assert host.run("ADD", host.conf("1.0.0", "recorder")).status == 0
    host.script("recorder", "echo last words >&2; kill -9 $$")
    error = host.run("DEL", host.conf("1.0.0", "recorder")).error
    assert error["code"] == 103 and "status 137" in error["msg"] and error["details"] == "last words"
    (host.bin_dir / "recorder").chmod(0o644)
    error = host.run("DEL", host.conf("1.0.0", "recorder")).error
    assert error["code"] == 102 and "Permission denied" in error["msg"]
    assert host.states() == {"c1"}


def test_status_is_that_of_the_delegate(host: CniHost) -> None:
    error = host.run("STATUS", host.conf("1.1.0")).error
    assert error["code"] == 50 and "host-local does not support CNI version 1.1.0" in error["msg"]
    host.script("recorder", "")
    ready = host.run("STATUS", host.conf("1.1.0", "recorder"))
    assert (ready.status, ready.stdout, ready.stderr) == (0, "", "")
    assert host.given("STATUS")["ipam"]["ranges"] == [[{"subnet": "10.1.17.0/24"}]]
    host.script("recorder", """echo '{"code": 51, "msg": "limited"}'; exit 1""")
    assert json.loads(host.run("STATUS", host.conf("1.1.0", "recorder")).stdout)["code"] == 51
    error = host.run("STATUS", host.conf("1.1.0", "nowhere")).error
    assert error["code"] == 50 and '"nowhere"' in error["msg"]


def test_gc_deletes_what_is_stale_and_nothing_else(host: CniHost) -> None:
    """host-local knows no GC: its reservations go by DEL, as libcni does it."""
    kept = {host.add("valid"), host.add("valid", "net1")}
    host.add("stale")
    host.add("valid", "net2")
    other = host.add("elsewhere", name="other")
    (host.data_dir / "damaged").write_bytes(b"")
    (host.data_dir / ".killed").write_bytes(b"{")
    listed = [{"containerID": "valid", "ifname": "eth0"}, {"containerID": "valid", "ifname": "net1"}]
    conf = {**host.conf("1.1.0"), "cni.dev/valid-attachments": listed}
    collected = host.run("GC", conf)
    assert collected.status == 0, collected.stdout
    assert (collected.stdout, collected.stderr) == ("", "")
    assert (host.reserved(), host.reserved("other")) == (kept, {other})
    assert host.states() == {"valid", "valid:net1", "elsewhere"}
    del conf["cni.dev/valid-attachments"]
    assert "cni.dev/valid-attachments" in host.run("GC", conf).error["msg"]
    assert host.reserved() == kept
    assert host.run("GC", {**conf, "cni.dev/valid-attachments": None}).status == 0
    assert host.reserved() == set()


def test_gc_is_passed_on_and_tells_all_that_failed(host: CniHost) -> None:
    host.script("recorder", "")
    for container in ("one", "two"):
        assert host.run("ADD", host.conf("1.1.0", "recorder"), container=container).status == 0
    listed = [{"containerID": "one", "ifname": "eth0"}]
    conf = {**host.conf("1.1.0", "recorder"), "cni.dev/valid-attachments": listed}
    host.script("recorder", "echo $CNI_COMMAND went wrong; exit 1")
    error = host.run("GC", conf).error
    assert error["code"] == 105
    assert error["details"] == "two: DEL went wrong; GC went wrong"
    assert host.states() == {"one", "two"}
    host.script("recorder", "")
    assert host.run("GC", conf).status == 0
    assert host.given("GC")["cni.dev/valid-attachments"] == listed
    assert "CNI_CONTAINERID=two\n" in (host.directory / "DEL.env").read_text()
    assert host.states() == {"one"}


def test_the_compiled_modules_are_used_and_the_sources_are_enough(host: CniHost) -> None:
    """Another version of Python cannot use what ours compiled; here the compiled half is made unusable."""
    content = host.plugin.read_bytes()
    assert content.count(importlib.util.MAGIC_NUMBER) >= 9
    host.plugin.write_bytes(content.replace(importlib.util.MAGIC_NUMBER, b"\0\0\r\n"))
    host.add()
    assert host.run("DEL", host.conf()).status == 0
