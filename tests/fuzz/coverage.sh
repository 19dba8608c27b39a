#!/usr/bin/env bash
# Which lines of csrc the fuzzers reach: the kept corpora, then SECONDS of fuzzing from them, in a build that counts.
# Fails below 90 % of all.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:?seconds}
least=90
build=build/fuzz-coverage
rm -rf "$build"/profiles
mkdir -p "$build"/profiles
objects=()
for target in receive_udp receive_vxlan forwarder_udp forwarder_vxlan; do
	fuzzer=$build/tests/fuzz/fuzz_$target
	[ ${#objects[@]} -eq 0 ] || objects+=(-object)
	objects+=("$fuzzer")
	found=$(mktemp -d "$build/found.XXXXXX")
	LLVM_PROFILE_FILE=$build/profiles/$target.profraw "$fuzzer" -max_total_time="$seconds" -max_len=4096 -entropic=0 \
		-artifact_prefix="$found/crash-" "$found" tests/fuzz/corpus_"$target" >"$build/$target.log" 2>&1 ||
		{ tail -40 "$build/$target.log"; exit 1; }
	rm -r "$found"
done
# Of the compiler's version, where several are installed.
tool() { command -v "$1-$(clang -dumpversion | cut -d. -f1)" || command -v "$1"; }
profdata=$(tool llvm-profdata)
cov=$(tool llvm-cov)
"$profdata" merge -o "$build/all.profdata" "$build"/profiles/*.profraw
"$cov" export -summary-only -instr-profile "$build/all.profdata" "${objects[@]}" >"$build/summary.json"
"$cov" show -instr-profile "$build/all.profdata" "${objects[@]}" >"$build/lines.txt"
python3 - "$build/summary.json" "$least" <<'END'
import json
import sys
from pathlib import Path

least = float(sys.argv[2])
covered = count = 0
for file in sorted(json.loads(Path(sys.argv[1]).read_text())["data"][0]["files"], key=lambda file: file["filename"]):
    path, lines = Path(file["filename"]), file["summary"]["lines"]
    if path.parents[1].name == "csrc" and lines["count"]:
        print(f"{path.parent.name + '/' + path.name:18} {lines['covered']:4} of {lines['count']:4} lines {lines['percent']:6.1f} %")
        covered, count = covered + lines["covered"], count + lines["count"]
percent = 100 * covered / count
print(f"{'csrc':18} {covered:4} of {count:4} lines {percent:6.1f} %, at least {least:.0f} %")
sys.exit(percent < least)
END
