"""Counts what a packet costs the core's whole way, under valgrind: instructions and cache misses, the same on every run.

    python bench/instructions.py

Needs valgrind and `make bench`'s build. Each case of growth.c runs with fewer and with more packets under cachegrind, and
the difference is divided by the packets more: so start-up does not count; the load (growth.c) does, and is shown first.
The caches are cachegrind's model of this processor's (first and last level, no prefetching), not the processor itself.
What must stay true: instructions differ from run to run only by what the table's random seed changes (collisions).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

program = Path(__file__).resolve().parents[1] / "build" / "bench" / "bench" / "growth"
fewer, more = 6_400, 32_000
warm_up = 1.25  # growth runs a quarter of the packets before it counts
cases = {
    "send, the load alone": "send 2 2 1 64 load",
    "send, 2 peers": "send 2 2 1 64 core",
    "send, 2 of 10,000 peers": "send 10000 2 1 64 core",
    "send, 10,000 peers": "send 10000 10000 1 64 core",
    "send, 2 peers, no trains": "send 2 2 256 64 core single",
    "send, 10,000 peers, no trains": "send 10000 10000 256 64 core single",
    "receive, the load alone": "receive 2 2 1 64 load",
    "receive, 2 peers": "receive 2 2 1 64 core",
    "receive, 2 of 10,000 peers": "receive 10000 2 1 64 core",
    "receive, 10,000 peers": "receive 10000 10000 1 64 core",
}
events = {"Ir": "instructions", "D1": "first-level misses", "LL": "last-level misses"}


def count(words: list[str], packets: int, out: Path) -> dict[str, int]:
    """Return the events of one run; raises `RuntimeError` with what valgrind or the program said."""
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=yes", f"--cachegrind-out-file={out}"]
    done = subprocess.run(
        [*valgrind, str(program), *words[:6], str(packets), *words[6:]], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}: {done.stdout}{done.stderr[-1000:]}")
    lines = dict(
        line.split(": ", 1) for line in out.read_text().splitlines() if line.startswith(("events:", "summary:"))
    )
    found = dict(zip(lines["events"].split(), map(int, lines["summary"].split()), strict=True))
    misses = {level: found[f"{level}mr"] + found[f"{level}mw"] for level in ("D1", "DL")}
    return {"Ir": found["Ir"], "D1": misses["D1"], "LL": misses["DL"]}


def main() -> int:
    """Print a line a case."""
    if not shutil.which("valgrind") or not program.exists():
        print(f"SKIPPED: valgrind and {program} are needed", file=sys.stderr)
        return 1
    print("64 B, per packet: " + ", ".join(events.values()))
    with tempfile.TemporaryDirectory() as directory:
        for label, text in cases.items():
            words = text.split()
            low, high = (count(words, packets, Path(directory) / "out") for packets in (fewer, more))
            each = [(high[event] - low[event]) / ((more - fewer) * warm_up) for event in events]
            print(f"  {label:<30} {each[0]:8.1f} {each[1]:8.2f} {each[2]:8.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
