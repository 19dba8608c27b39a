"""The plugin's commands: ADD, DEL, CHECK, STATUS, GC, VERSION.

Every command works on its own, in any order, after a crash at any point: what ADD gives the delegate is on disk before the
delegate starts, and goes when the delegate's DEL has succeeded. What must stay true: whatever comes in, what goes out on
stdout is the delegate's own answer, nothing, or one error as the CNI specification has it, never a traceback.

Source: CNI specification 1.1.0, sections 2 to 4; containernetworking/cni pkg/skel; flannel.md section 9.
"""

from __future__ import annotations

import os
import sys

from dataplane.cni import delegate, state
from dataplane.flannel.cni import failures, jsontext, netconf, subnetfile
from dataplane.flannel.cni.failures import Failure
from dataplane.flannel.cni.netconf import Conf

# Which variables a command cannot do without.
_needed = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "STATUS": ("CNI_PATH",),
    "GC": ("CNI_PATH",),
    "VERSION": (),
}
_since = {"CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}
_attachments = ("cni.dev/valid-attachments", "cni.dev/attachments")  # libcni sends both, with the same content


def main() -> None:
    """Do what the environment and stdin say, and end the process."""
    version = netconf.versions[-1]
    try:
        command = os.environ.get("CNI_COMMAND", "")
        text = _read_stdin() if command else b""
        version = _version_in(text) or version
        status = _run(command, text, version) if command else _about()
    except Failure as failure:
        status = _fail(version, failure)
    except Exception as error:
        # A fault of ours, or input that nobody thought of: still an answer that the runtime can show.
        status = _fail(version, Failure(failures.unexpected, f"unexpected {type(error).__name__}: {error}"))
    # At once: what is left to do is freeing memory, and takes milliseconds.
    os._exit(status)


def _run(command: str, text: bytes, version: str) -> int:
    _check_environment(command)
    if command == "VERSION":
        said = {"cniVersion": version, "supportedVersions": list(netconf.versions)}
        _write(1, jsontext.text_of(said).encode() + b"\n")
        return 0
    conf = netconf.read(text)
    if command in _since and not conf.since(_since[command]):
        raise Failure(
            failures.incompatible_version,
            f"cniVersion {conf.version} does not allow {command}",
            f"{command} is for configurations of {_since[command]} and later",
        )
    return _commands[command](conf)


def _add(conf: Conf) -> int:
    given = netconf.for_delegate(conf, _read_subnet_file(conf.subnet_file))
    path = _find_delegate(conf.delegate_type)
    state.save(
        conf.data_dir,
        os.environ["CNI_CONTAINERID"],
        os.environ["CNI_IFNAME"],
        os.environ["CNI_NETNS"],
        os.environ.get("CNI_ARGS", ""),
        given,
    )
    delegate.become(path, given)
    return 1


def _del(conf: Conf) -> int:
    container, interface = os.environ["CNI_CONTAINERID"], os.environ["CNI_IFNAME"]
    state.forget_unfinished(conf.data_dir, container, interface)
    attachment = state.find(conf.data_dir, container, interface)
    if attachment is None:
        return 0  # never added, or deleted already
    given = attachment.netconf
    if given is None:
        try:
            given = netconf.for_delegate(conf, _read_subnet_file(conf.subnet_file))
        except Failure as failure:
            # An error would have the runtime try for ever.
            _note(f"{attachment.path} cannot be read, and it is not known what ADD gave the delegate: {failure.msg}")
            state.forget(attachment)
            return 0
    elif given.get("cniVersion") == conf.document.get("cniVersion") and "prevResult" in conf.document:
        given = {**given, "prevResult": conf.document["prevResult"]}
    answer = delegate.run(_find_delegate(given["type"]), given)
    if answer.status == 0:
        state.forget(attachment)
    return _pass_on(answer)


def _check(conf: Conf) -> int:
    result = conf.document.get("prevResult")
    if not isinstance(result, dict):
        raise Failure(failures.invalid_config, "CHECK needs 'prevResult', the result of ADD, in the configuration")
    container = os.environ["CNI_CONTAINERID"]
    attachment = state.find(conf.data_dir, container, os.environ["CNI_IFNAME"])
    if attachment is None or attachment.netconf is None:
        raise Failure(
            failures.attachment_unknown,
            f"nothing is known of {os.environ['CNI_IFNAME']} of container {container}",
            f"its file in {conf.data_dir} (dataDir) is missing or damaged, so that DEL cannot clean up after it",
        )
    # prevResult is in the form of the version that the runtime speaks now.
    given = {**attachment.netconf, "cniVersion": conf.version, "prevResult": netconf.with_gateways(result)}
    delegate.become(_find_delegate(given["type"]), given)
    return 1


def _status(conf: Conf) -> int:
    try:
        given = netconf.for_delegate(conf, _read_subnet_file(conf.subnet_file))
        path = _find_delegate(conf.delegate_type)
        if not delegate.knows(path, conf.version):
            raise Failure(failures.not_available, f"{path} does not support CNI version {conf.version}")
    except Failure as failure:
        raise Failure(failures.not_available, failure.msg, failure.details) from failure
    delegate.become(path, given)
    return 1


def _gc(conf: Conf) -> int:
    valid = _valid_attachments(conf)
    containers = {container for container, _ in valid}
    problems: list[str] = []
    for attachment in state.every(conf.data_dir):
        interface = attachment.interface
        if (attachment.container, interface) in valid or (not interface and attachment.container in containers):
            continue
        try:
            _collect(attachment, conf.name)
        except Failure as failure:
            problems.append(f"{attachment.container}: {failure.msg}")
    try:
        path = _find_delegate(conf.delegate_type)
        if delegate.knows(path, conf.version):
            given = netconf.for_delegate(conf, _read_subnet_file(conf.subnet_file))
            given.update({name: conf.document[name] for name in _attachments if name in conf.document})
            _require_success(delegate.run(path, given))
    except Failure as failure:
        problems.append(failure.msg)
    if problems:
        raise Failure(failures.gc_incomplete, "not everything stale could be removed", "; ".join(problems))
    return 0


def _collect(attachment: state.Attachment, network: str) -> None:
    """Delete a stale attachment as the runtime would have; one of another network is left alone."""
    given = attachment.netconf
    if given is not None and given.get("name") != network:
        return
    if given is not None and not os.path.basename(attachment.path).startswith("."):
        # A path in /proc may be another container's by now.
        netns = "" if attachment.netns.startswith("/proc/") else attachment.netns
        answer = delegate.run(
            _find_delegate(given["type"]),
            given,
            CNI_COMMAND="DEL",
            CNI_CONTAINERID=attachment.container,
            CNI_NETNS=netns if os.path.exists(netns) else "",
            CNI_IFNAME=attachment.interface or state.usual_interface,
            CNI_ARGS=attachment.args,
        )
        _require_success(answer)
    state.forget(attachment)


def _require_success(answer: delegate.Answer) -> None:
    """Raise `Failure` with what a delegate said that failed."""
    if answer.status != 0:
        said = (answer.output or answer.errors).decode("utf-8", "replace").strip()
        raise Failure(failures.gc_incomplete, said[-1000:] or f"the delegate ended with status {answer.status}")


_commands = {"ADD": _add, "DEL": _del, "CHECK": _check, "STATUS": _status, "GC": _gc}


def _read_subnet_file(path: str) -> subnetfile.SubnetFile:
    """Read the node's subnet.env.

    Raises:
        Failure: it is not there (try again later), cannot be read, or does not say what is needed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        code = failures.try_again_later if isinstance(error, FileNotFoundError) else failures.io_failed
        raise Failure(
            code, f"failed to load flannel 'subnet.env' file: {path}: {error.strerror}", subnetfile.look_at
        ) from error
    return subnetfile.parse(text, path)


def _check_environment(command: str) -> None:
    """Raise `Failure` where the command is unknown, or its variables are missing or not allowed."""
    if command not in _needed:
        raise Failure(
            failures.invalid_environment, f"unknown CNI_COMMAND {command!r}", f"allowed are {', '.join(_needed)}"
        )
    missing = [name for name in _needed[command] if not os.environ.get(name)]
    if missing:
        raise Failure(failures.invalid_environment, f"missing in the environment of {command}: {', '.join(missing)}")
    if "CNI_CONTAINERID" in _needed[command]:
        container, interface = os.environ["CNI_CONTAINERID"], os.environ["CNI_IFNAME"]
        if not netconf.is_name(container) or len(container) > 200:  # it names a file, with the interface
            raise Failure(
                failures.invalid_environment,
                f"invalid CNI_CONTAINERID {container!r}",
                "allowed are at most 200 letters, digits, and after the first character also . _ -",
            )
        if interface in {".", ".."} or len(interface) > 15 or any(c in "/:" or c.isspace() for c in interface):
            raise Failure(
                failures.invalid_environment,
                f"invalid CNI_IFNAME {interface!r}",
                "allowed are at most 15 characters, none of them / : or a space, and not . or ..",
            )


def _valid_attachments(conf: Conf) -> set[tuple[str, str]]:
    name = _attachments[0]
    if name not in conf.document:
        # Taking this for "none is valid" would delete every pod's network.
        raise Failure(failures.invalid_config, f"GC needs '{name}' in the configuration")
    listed = conf.document[name] or []
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise Failure(failures.invalid_config, f"'{name}' is not a list of objects")
    return {(str(one.get("containerID")), str(one.get("ifname"))) for one in listed}


def _find_delegate(kind: object) -> str:
    return delegate.find(str(kind), os.environ["CNI_PATH"])


def _pass_on(answer: delegate.Answer) -> int:
    _write(2, answer.errors)
    if answer.status != 0 and not delegate.is_error(answer):
        said = (answer.output + b" " + answer.errors).decode("utf-8", "replace").strip()
        raise Failure(
            failures.delegate_said_nothing,
            f"the delegate ended with status {answer.status} and no CNI error",
            said[-1000:],
        )
    _write(1, answer.output)
    return answer.status


def _version_in(text: bytes) -> str:
    """Return the version that answers are to carry: the configuration's, "" where it says none."""
    try:
        document = jsontext.parse(text.decode())
    except ValueError:
        return ""
    version = document.get("cniVersion") if isinstance(document, dict) else None
    return version if isinstance(version, str) else ""


def _about() -> int:
    _note(
        "CNI plugin flannel of flannel-dataplane: run by container runtimes, configured in /etc/cni/net.d; "
        f"CNI protocol versions supported: {', '.join(netconf.versions)}"
    )
    return 0


def _fail(version: str, failure: Failure) -> int:
    said = {"cniVersion": version, "code": failure.code, "msg": failure.msg}
    if failure.details:
        said["details"] = failure.details
    _write(1, jsontext.text_of(said).encode() + b"\n")
    return 1


def _note(text: str) -> None:
    _write(2, f"flannel: {text}\n".encode("utf-8", "replace"))


def _read_stdin() -> bytes:
    if sys.stdin is None or os.isatty(0):
        return b""
    parts = []
    while part := os.read(0, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def _write(descriptor: int, text: bytes) -> None:
    try:
        while text:
            text = text[os.write(descriptor, text) :]
    except OSError:
        pass  # nobody is there to be told
