"""The private enclosure: network, mount and PID namespaces in which a whole run takes place.

How it works: the process that was started becomes a supervisor. It runs the same command again under `unshare`, with
`init.py` as PID 1 (tmpfs over /run, loopback up), and holds a pipe to it: signals go through the pipe, and when the
supervisor is gone, even by kill -9, the pipe closes and PID 1 ends. What must stay true: the network namespace has no
link to the host's; when PID 1 ends, the kernel removes every process, namespace and device of the run; files of a run
belong under /run, which goes with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dataplane.errors import HostError

marker = "DATAPLANE_ENCLOSURE"
_init = Path(__file__).with_name("init.py")
_sent_by_kernel = 0x80  # SI_KERNEL (asm-generic/siginfo.h): the terminal's Ctrl-C, which reaches the whole group itself
_signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_grace_s = 5.0


def inside() -> bool:
    """Say whether this process is in an enclosure; a marker left over in the environment is not enough."""
    return os.environ.get(marker, "") == os.readlink("/proc/self/ns/mnt")


def ensure() -> None:
    """Return if we are inside; otherwise run this process's own command inside and exit with its code.

    Raises:
        HostError: no enclosure can be made here, with the reason.
    """
    if not inside():
        sys.exit(run(sys.orig_argv))


def run(command: Sequence[str]) -> int:
    """Run `command` in a new enclosure; return its exit code, or 128 + N where signal N ended it.

    SIGINT, SIGTERM and SIGHUP are passed on; what has not ended some seconds later is killed.

    Raises:
        HostError: no enclosure can be made here, with the reason.
    """
    unshare = _unshare_command()
    _check(unshare)
    reader, writer = os.pipe()
    # Blocked before the child exists, so that none is lost; the child gets the mask and init.py lifts it.
    watched = {*_signals, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        words = [*unshare, sys.executable, "-I", "-S", str(_init), marker, str(reader), *command]
        with subprocess.Popen(words, pass_fds=(reader,)) as child:
            os.close(reader)
            try:
                return _supervise(child, writer, watched)
            finally:
                os.close(writer)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _supervise(child: subprocess.Popen[bytes], writer: int, watched: set[signal.Signals]) -> int:
    deadline: float | None = None
    stopped_by = 0
    while child.poll() is None:
        info = signal.sigtimedwait(watched, deadline) if deadline is not None else signal.sigwaitinfo(watched)
        if info is None:
            child.kill()  # unshare --kill-child takes PID 1 along, and that everything else
            return 128 + stopped_by
        if info.si_signo == signal.SIGCHLD:
            continue
        deadline, stopped_by = _grace_s, info.si_signo
        # Passing on the terminal's own signal would give the command two. A pipe that is closed: it is ending anyway.
        if info.si_code != _sent_by_kernel:
            try:
                os.write(writer, bytes([info.si_signo]))
            except BrokenPipeError:
                continue
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _unshare_command() -> list[str]:
    if shutil.which("unshare") is None:
        raise HostError("the lab needs the command unshare (Debian package util-linux), which is not in PATH")
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


def _check(unshare: list[str]) -> None:
    """Raise `HostError` with the kernel's reason where `unshare` is refused."""
    tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return
    allowed = (
        "allowed are root with CAP_SYS_ADMIN, and ordinary users where user namespaces are: see "
        "kernel.unprivileged_userns_clone, user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns"
    )
    raise HostError(f"cannot make the lab's private namespaces: {tried.stderr.strip()}; {allowed}")


def main() -> int:
    """`python -m dataplane.lab.enclosure -- COMMAND…`: run any command in an enclosure."""
    words = sys.argv[1:]
    if words[:1] == ["--"]:
        words = words[1:]
    if not words:
        print("usage: python -m dataplane.lab.enclosure -- COMMAND [ARGUMENT...]", file=sys.stderr)
        return 2
    try:
        return run(words)
    except HostError as error:
        print(f"enclosure: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
