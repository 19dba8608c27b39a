#!/usr/bin/env bash
# Fuzz each target for SECONDS, starting from the kept corpus; new finds stay in build/, not in the tree.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:?seconds}
for target in receive_udp receive_vxlan forwarder_udp forwarder_vxlan; do
	found=build/fuzz/found_$target
	mkdir -p "$found"
	log=build/fuzz/$target.log
	# Without -entropic=0 more time goes into choosing inputs than into running them.
	if ! build/fuzz/tests/fuzz/fuzz_"$target" -max_total_time="$seconds" -max_len=4096 -entropic=0 \
		-print_final_stats=1 -artifact_prefix="$found/crash-" "$found" tests/fuzz/corpus_"$target" >"$log" 2>&1; then
		tail -40 "$log"
		echo "fuzz_$target: failed; input kept in $found, replay: build/fuzz/tests/fuzz/fuzz_$target FILE"
		exit 1
	fi
	echo "fuzz_$target: $(awk '/number_of_executed_units/{print $2}' "$log") inputs in ${seconds}s, no failure"
done
