"""The CNI plugin's own time: ADD and DEL of a pod through it, beside calling its delegate with the same configuration.

    .venv/bin/python bench/cni.py

In an enclosure; bridge and host-local are Debian's. The two ways take turns, and the difference of the medians is what the
plugin adds: the interpreter's start, subnet.env, the state file with its two fsyncs, and one more process for DEL. The
state is on this machine's disk (--directory), since a file system in memory would give the fsyncs away.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from dataplane.lab import enclosure
from dataplane.lab.commands import run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what makes pods by plugins is the tests'

from tests.netns.cni.network import debian_plugins, install

subnet_env = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"


def command(name: str, path: Path, conf: dict[str, object], container: str, search: str) -> float:
    """Run a plugin and return how long it took, in ms."""
    variables = {
        **os.environ,
        "CNI_COMMAND": name,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": "/run/netns/pod",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": search,
    }
    given = json.dumps(conf).encode()
    begun = time.perf_counter()
    done = subprocess.run([path], input=given, env=variables, capture_output=True, check=False)
    took = time.perf_counter() - begun
    if done.returncode != 0:
        raise RuntimeError(f"{path} {name}: {done.stdout.decode()} {done.stderr.decode()}")
    return 1e3 * took


def main() -> int:
    """Print a line a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--directory", type=Path, default=Path("build"), help="where the plugin keeps its state")
    args = parser.parse_args()
    enclosure.ensure()
    args.directory.mkdir(exist_ok=True)
    run(None, "ip", "netns", "add", "pod")
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(dir=args.directory) as name:
        directory = Path(name).resolve()
        bin_dir = install(directory / "bin")
        (directory / "subnet.env").write_text(subnet_env)
        conf = {
            "cniVersion": "1.0.0",
            "name": "cbr0",
            "type": "flannel",
            "subnetFile": str(directory / "subnet.env"),
            "dataDir": str(directory / "state"),
            "ipam": {"dataDir": str(directory / "networks")},
            "delegate": {"hairpinMode": True, "isDefaultGateway": True},
        }
        search = f"{bin_dir}:{debian_plugins}"
        # What our plugin gives the delegate, from its own state file.
        command("ADD", bin_dir / "flannel", conf, "first", search)
        given = json.loads((directory / "state" / "first").read_text())
        del given["dataplane"]
        command("DEL", bin_dir / "flannel", conf, "first", search)
        ways = {"flannel": (bin_dir / "flannel", conf), "delegate": (debian_plugins / "bridge", given)}
        for number in range(args.rounds):
            for way in sorted(ways, reverse=bool(number % 2)):
                for verb in ("ADD", "DEL"):
                    took = command(verb, *ways[way], f"c{number}", search)
                    times.setdefault((verb, way), []).append(took)
    print(f"medians of {args.rounds}, ms (smallest)")
    for verb in ("ADD", "DEL"):
        ours, theirs = times[verb, "flannel"], times[verb, "delegate"]
        print(
            f"  {verb}  through flannel {median(ours):6.1f} ({min(ours):.1f})   delegate alone {median(theirs):6.1f} "
            f"({min(theirs):.1f})   our own {median(ours) - median(theirs):5.1f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
