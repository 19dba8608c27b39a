#!/usr/bin/env bash
# Fuzz each target for SECONDS, starting from the kept corpus; new finds stay in build/, not in the tree. How many inputs a second of
# CPU time is printed too: on a busy machine those of a second are no measure.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:?seconds}
TIMEFORMAT='%U %S'
for target in receive_udp receive_vxlan forwarder_udp forwarder_vxlan; do
	found=build/fuzz/found_$target
	mkdir -p "$found"
	log=build/fuzz/$target.log
	# Without -entropic=0 more time goes into choosing inputs than into running them.
	if ! used=$( { time build/fuzz/tests/fuzz/fuzz_"$target" -max_total_time="$seconds" -max_len=4096 -entropic=0 \
		-print_final_stats=1 -artifact_prefix="$found/crash-" "$found" tests/fuzz/corpus_"$target" >"$log" 2>&1; } 2>&1 ); then
		tail -40 "$log"
		echo "fuzz_$target: failed; input kept in $found, replay: build/fuzz/tests/fuzz/fuzz_$target FILE"
		exit 1
	fi
	awk -v target="$target" -v used="$used" -v seconds="$seconds" '/number_of_executed_units/ {
		split(used, time, " ")
		printf "fuzz_%s: %d inputs in %d s, %d in a second of CPU time, no failure\n", target, $2, seconds, $2 / (time[1] + time[2])
	}' "$log"
done
