"""PID 1 of the enclosure. Run by path with `python -I -S`, before anything of the project is imported.

Arguments: name of the marker variable, descriptor of the supervisor's pipe, then the command. What must stay true:
it ends when the command ends (with its exit code) or when the pipe closes, and its end is the end of everything
inside; it reaps whatever loses its parent.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys


def main() -> int:
    """Prepare the namespaces, run the command, return its exit code."""
    marker, pipe, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    os.set_inheritable(pipe, False)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    # Handlers that do nothing: the command, unlike with SIG_IGN, starts with the default actions.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    environment = {**os.environ, marker: os.readlink("/proc/self/ns/mnt")}
    try:
        child = os.posix_spawnp(command[0], command, environment)
    except OSError as error:
        print(f"enclosure: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    while True:
        code = _reap(child)
        if code is not None:
            return code
        ready, _, _ = select.select([pipe, wake], [], [])
        if wake in ready:
            os.read(wake, 64)
        if pipe in ready:
            numbers = os.read(pipe, 64)
            if not numbers:
                return 128 + signal.SIGKILL
            for asked in numbers:
                os.kill(child, asked)


def _reap(child: int) -> int | None:
    """Collect all that have ended; return the command's exit code if it is among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if pid == 0:
            return None


if __name__ == "__main__":
    sys.exit(main())
