#!/usr/bin/env bash
# Fuzz each receive parser for SECONDS, starting from the kept corpus; new finds stay in build/, not in the tree.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:?seconds}
for format in udp vxlan; do
	found=build/fuzz/found_$format
	mkdir -p "$found"
	log=build/fuzz/$format.log
	if ! build/fuzz/tests/fuzz/fuzz_receive_"$format" -max_total_time="$seconds" -max_len=4096 -print_final_stats=1 \
		-artifact_prefix="$found/crash-" "$found" tests/fuzz/corpus_"$format" >"$log" 2>&1; then
		tail -40 "$log"
		echo "fuzz_receive_$format: failed; input kept in $found, replay: build/fuzz/tests/fuzz/fuzz_receive_$format FILE"
		exit 1
	fi
	echo "fuzz_receive_$format: $(awk '/number_of_executed_units/{print $2}' "$log") inputs in ${seconds}s, no failure"
done
