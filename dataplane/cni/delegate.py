"""Running the plugin that does the work.

What must stay true: it gets our environment and its own configuration on stdin; what it says on stdout and stderr, and
how it ends, reaches the runtime unchanged.

Source: CNI specification 1.1.0, section 4; containernetworking/cni pkg/invoke (FindInPath).
"""

from __future__ import annotations

import os
import stat

# The package signal wraps these in enums, at a price.
from _signal import SIG_DFL, SIGPIPE, SIGXFSZ, signal  # type: ignore[import-not-found]

from dataplane.flannel.cni import failures, jsontext
from dataplane.flannel.cni.failures import Failure

_ignored = (SIGPIPE, SIGXFSZ)  # by the interpreter, and a process that we start would inherit that


class Answer:
    """How a delegate ended: exit status (128 + N for signal N), stdout, stderr."""

    def __init__(self, status: int, output: bytes, errors: bytes) -> None:
        self.status = status
        self.output = output
        self.errors = errors


def find(kind: str, search: str) -> str:
    """Return the path of the plugin `kind` in the directories of CNI_PATH; raises `Failure`."""
    directories = [directory for directory in search.split(":") if directory]
    if "/" not in kind and "\0" not in kind:
        for directory in directories:
            path = os.path.join(directory, kind)
            try:
                if stat.S_ISREG(os.stat(path).st_mode):
                    return path
            except OSError:
                continue
    raise Failure(
        failures.delegate_not_found,
        f'failed to find plugin "{kind}" in path [{" ".join(directories)}]',
        "it is the 'type' of 'delegate' (default bridge); install the CNI plugins there, "
        "or let the runtime's CNI directories (CNI_PATH) include theirs",
    )


def become(path: str, netconf: dict[str, object]) -> None:
    """Replace this process by the plugin, so that nothing stands between it and the runtime; raises `Failure`."""
    os.dup2(_stdin(netconf), 0)
    for number in _ignored:
        signal(number, SIG_DFL)
    try:
        os.execve(path, [path], os.environ)  # noqa: S606 (a shell is the last thing wanted)
    except OSError as error:
        raise _not_started(path, error) from error


def run(path: str, netconf: dict[str, object], **environment: str) -> Answer:
    """Run the plugin to its end, with some variables changed; raises `Failure` where it cannot be started."""
    # Files in memory, not pipes: neither side can wait for the other.
    output, errors = os.memfd_create("stdout"), os.memfd_create("stderr")
    given = _stdin(netconf)
    moves = [(os.POSIX_SPAWN_DUP2, descriptor, target) for target, descriptor in enumerate((given, output, errors))]
    try:
        pid = os.posix_spawn(path, [path], {**os.environ, **environment}, file_actions=moves, setsigdef=_ignored)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return Answer(status if status >= 0 else 128 - status, _content(output), _content(errors))
    except OSError as error:
        raise _not_started(path, error) from error
    finally:
        for descriptor in (given, output, errors):
            os.close(descriptor)


def knows(path: str, version: str) -> bool:
    """Ask the plugin whether it supports a version of the specification; raises `Failure`."""
    answer = run(path, {"cniVersion": version}, CNI_COMMAND="VERSION")
    try:
        document = jsontext.parse(answer.output.decode())
    except ValueError:
        return False
    supported = document.get("supportedVersions") if isinstance(document, dict) else None
    return isinstance(supported, list) and version in supported


def is_error(answer: Answer) -> bool:
    """Say whether stdout holds an error as the specification has it."""
    try:
        document = jsontext.parse(answer.output.decode())
    except ValueError:
        return False
    return isinstance(document, dict) and "code" in document and "msg" in document


def _stdin(netconf: dict[str, object]) -> int:
    descriptor = os.memfd_create("stdin")
    text = jsontext.text_of(netconf).encode()
    while text:
        text = text[os.write(descriptor, text) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _not_started(path: str, error: OSError) -> Failure:
    return Failure(failures.delegate_not_started, f"cannot run the plugin {path}: {error.strerror}")
