"""What was given to the delegate, kept per attachment, so that DEL and CHECK can give it the same.

An attachment is one interface of one container. Its file is DATADIR/CONTAINERID, which is where flannel's plugin has it,
and holds what flannel's plugin would read: the delegate's configuration. One more member, `dataplane`, tells whose it is;
flannel's plugin passes it to the delegate, which does not know it. A second interface of the container, of which flannel's
plugin would lose the first, has CONTAINERID:INTERFACE (neither may contain a colon).

What must stay true: a file is there whole before the delegate starts, also after a power cut; nothing outside the
directory is touched, whatever the container's id.

Source: flannel-io/cni-plugin flannel.go (saveScratchNetConf, consumeScratchNetConf); flannel.md section 9.
"""

from __future__ import annotations

import os

from dataplane.flannel.cni import failures, jsontext
from dataplane.flannel.cni.failures import Failure

_member = "dataplane"
usual_interface = "eth0"  # what kubelet's runtimes call it, for files that do not say


class Attachment:
    """A file of the state.

    Attributes:
        container, interface, netns, args: as the runtime gave them to ADD; all but the first are "" where the file does
            not say, being flannel's.
        netconf: the delegate's configuration, None where the file cannot be read.
        path: of the file.
    """

    def __init__(self, container: str, path: str) -> None:
        self.container = container
        self.path = path
        self.interface = self.netns = self.args = ""
        self.netconf: dict[str, object] | None = None


def save(data_dir: str, container: str, interface: str, netns: str, args: str, netconf: dict[str, object]) -> None:
    """Write an attachment's file; the directory is made with mode 0700, the file has 0600.

    Raises:
        Failure: the file system refused.
    """
    owner = {"interface": interface, "netns": netns, "args": args}
    text = jsontext.text_of({**netconf, _member: owner}).encode() + b"\n"
    try:
        os.makedirs(data_dir, 0o700, exist_ok=True)
        # The usual name may be another interface's, or a file of flannel's, which does not say whose it is.
        first = _load(data_dir, container, container)
        taken = first is not None and first.netconf is not None and first.interface != interface
        aside = f"{container}:{interface}"
        name = aside if taken or _load(data_dir, container, aside) else container
        # One name a target, so that what a crash left is overwritten; the runtime does one thing at a time to a container.
        temporary = os.path.join(data_dir, f".{name}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, os.path.join(data_dir, name))
        directory = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise Failure(
            failures.io_failed, f"cannot keep the state of container {container} in {data_dir}: {error.strerror}"
        ) from error


def find(data_dir: str, container: str, interface: str) -> Attachment | None:
    """Return an attachment, None where there is none; raises `Failure` where its file cannot be read."""
    try:
        own = _load(data_dir, container, f"{container}:{interface}")
        if own is not None:
            return own
        first = _load(data_dir, container, container)
    except OSError as error:
        raise _unreadable(data_dir, error) from error
    if first is None or first.interface in {"", interface}:
        return first
    return None


def every(data_dir: str) -> list[Attachment]:
    """Return all attachments, and the leftovers of writers that were killed; raises `Failure`."""
    try:
        names = sorted(os.listdir(data_dir))
        found = [_load(data_dir, name.lstrip(".").partition(":")[0], name) for name in names]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(data_dir, error) from error
    return [attachment for attachment in found if attachment is not None]


def forget_unfinished(data_dir: str, container: str, interface: str) -> None:
    """Remove what an ADD left that was killed while it wrote."""
    for name in (container, f"{container}:{interface}"):
        try:
            os.unlink(os.path.join(data_dir, f".{name}"))
        except OSError:
            continue  # as a rule it is not there; what cannot be removed is no reason against DEL


def forget(attachment: Attachment) -> None:
    """Remove the file; raises `Failure`. Needs no fsync: a file that comes back is deleted once more."""
    try:
        os.unlink(attachment.path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Failure(failures.io_failed, f"cannot remove {attachment.path}: {error.strerror}") from error


def _load(data_dir: str, container: str, name: str) -> Attachment | None:
    attachment = Attachment(container, os.path.join(data_dir, name))
    try:
        with open(attachment.path, "rb") as file:
            text = file.read()
        document = jsontext.parse(text.decode())
    except (FileNotFoundError, IsADirectoryError):
        return None
    except ValueError:
        return attachment
    if not isinstance(document, dict) or not isinstance(document.get("type"), str):
        return attachment
    owner = document.pop(_member, None)
    attachment.netconf = document
    if isinstance(owner, dict):
        attachment.interface, attachment.netns, attachment.args = (
            value if isinstance(value := owner.get(member), str) else "" for member in ("interface", "netns", "args")
        )
    return attachment


def _unreadable(data_dir: str, error: OSError) -> Failure:
    return Failure(failures.io_failed, f"cannot read the state in {data_dir}: {error.strerror}")
