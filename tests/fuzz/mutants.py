"""Plant mistakes in csrc, one at a time, and see whether the fuzzers notice; where they do not, whether the C tests do.

Each mistake is a plain one (a comparison flipped, a check dropped, one more or less, a count left out), drawn from all such places by
a seed. It is built in a copy of the sources, then the kept corpora are run, then each fuzzer for some seconds, then tests/c.

Usage: mutants.py [--count 40] [--seed 1] [--seconds 5] [--only FILE.c]    (some 5 s of CPU time for each; survivors end up in exit status 1)
"""

import argparse
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

root = Path(__file__).parents[2]
work = root / "build" / "mutants"
source = work / "source"
targets = ["forwarder_vxlan", "forwarder_udp", "receive_vxlan", "receive_udp"]

# What is changed into what. A place is a match of the pattern.
swaps = [
    (r" == ", " != "),
    (r" != ", " == "),
    (r" < (?!<)", " <= "),
    (r" > (?!>)", " >= "),
    (r" <= ", " < "),
    (r" >= ", " > "),
    (r" && ", " || "),
    (r" \|\| ", " && "),
    (r" \+ 1\b", ""),
    (r" - 1\b", ""),
    (r" \+ (?=[a-z])", " - "),
    (r" \+= ", " -= "),
    (r"\+\+", "--"),
    (r"\breturn true;", "return false;"),
    (r"\breturn false;", "return true;"),
    (r"(?<=if \()!", ""),
    (r"(?<=if \()(?=[a-z])", "false && "),
    (r"^\t+count\(.*;$", "\t;"),
    (r"^\t+(?:memcpy|memset|store16|store32|checksum_store)\(.*;$", "\t;"),
    (r"^\t+continue;$", "\t;"),
]

# Mistakes that nobody can see, by file, the line before and their own line, and why.
excused = {
    (
        "receive/coalesce.c",
        "",
        "if (false && headers != run->headers || payload > run->gso_size || run->headers + run->payload + payload > packet_max)",
    ): "the same IP version, protocol and TCP data offset follow, which are all that headers depends on",
    (
        "state/uncut.c",
        "if (!change(dp, uncut, word, claimed))",
        "return true;",
    ): "only another worker's claim in between leads there",
}


def find_places(only: str | None) -> Iterator[tuple[Path, int, str]]:
    for path in sorted((root / "csrc").rglob("*.c")):
        if only and path.name != only:
            continue
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            code = line.split("/*")[0].rstrip()
            if not line.startswith("\t") or line.lstrip().startswith(("*", "/*")) or "_Static_assert" in line:
                continue
            for pattern, replacement in swaps:
                for place in re.finditer(pattern, code):
                    yield path, number, code[: place.start()] + replacement + code[place.end() :]


def limit_time() -> None:
    """A mistake may never end, and not only where libFuzzer looks at the clock."""
    resource.setrlimit(resource.RLIMIT_CPU, (30, 30))


def run(*command: str | Path) -> tuple[bool, str]:
    """Whether the command ends well, and what the oracle or a sanitizer said."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, errors="replace", cwd=work, preexec_fn=limit_time
    )
    pattern = r"not true: .*|counter \d+: .*|ERROR: AddressSanitizer: [\w-]+|runtime error: .*"
    said = re.findall(pattern, done.stdout + done.stderr)
    return done.returncode == 0, said[0] if said else f"status {done.returncode}"


def prepare() -> None:
    """Lay out a copy of what is built, and the two builds."""
    shutil.rmtree(work, ignore_errors=True)
    source.mkdir(parents=True)
    for name in ("meson.build", "meson.options", "csrc", "tests/c", "tests/fuzz"):
        if (root / name).is_dir():
            shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("corpus_*"))
        else:
            shutil.copy(root / name, source / name)
    common = ["-Dbuildtype=plain", "-Doptimization=1", "-Db_sanitize=address,undefined", "-Db_lundef=false"]
    common += ["-Dc_args=-w -Wno-error", "-Dwerror=false"]
    for build, option in (("fuzz", "-Dfuzz=true"), ("tests", "-Dtests=true")):
        subprocess.run(
            ["meson", "setup", work / build, source, option, *common],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"CC": "clang"},
        )


def judge(seconds: int) -> str:
    """Who notices the mistake that stands in the sources: a fuzzer by its corpus or by fuzzing, the C tests, or nobody ("")."""
    for rounds in (0, seconds):
        for target in targets:
            program = work / "fuzz" / "tests" / "fuzz" / f"fuzz_{target}"
            if not run("ninja", "-C", work / "fuzz", program.relative_to(work / "fuzz"))[0]:
                return "compiler"
            found = work / "found"
            shutil.rmtree(found, ignore_errors=True)
            found.mkdir()
            how = [f"-max_total_time={rounds}"] if rounds else ["-runs=0"]
            options = ["-timeout=20", "-max_len=4096", "-entropic=0", f"-artifact_prefix={found}/"]
            ok, said = run(program, *how, *options, found, root / "tests" / "fuzz" / f"corpus_{target}")
            if not ok:
                return f"{target}{' by fuzzing' if rounds else ''}: {said}"
    if not run("ninja", "-C", work / "tests")[0]:
        return "compiler"
    return "" if run("meson", "test", "-C", work / "tests", "--no-rebuild")[0] else "tests/c"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--only")
    asked = parser.parse_args()
    places = list(find_places(asked.only))
    chosen = random.Random(asked.seed).sample(places, min(asked.count, len(places)))
    prepare()
    tally: dict[str, int] = {}
    for path, number, line in chosen:
        lines = path.read_text().splitlines()
        right, lines[number] = lines[number].strip(), line
        name = path.relative_to(root / "csrc")
        mutated = source / "csrc" / name
        mutated.write_text("\n".join(lines) + "\n")
        noticed = judge(asked.seconds)
        shutil.copy(path, mutated)
        excuse = excused.get((str(name), lines[number - 1].strip(), line.strip()))
        kind = noticed.split(":")[0].removesuffix(" by fuzzing").split("_")[0] or ("excused" if excuse else "SURVIVED")
        tally[kind] = tally.get(kind, 0) + 1
        print(f"{name}:{number + 1}: {right}\n    -> {line.strip()}\n    {noticed or excuse or kind}", flush=True)
    print(
        f"{len(chosen)} of {len(places)} places: {', '.join(f'{kind} {count}' for kind, count in sorted(tally.items()))}"
    )
    return tally.get("SURVIVED", 0) > 0


if __name__ == "__main__":
    sys.exit(main())
