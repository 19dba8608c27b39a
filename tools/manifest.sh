#!/usr/bin/env bash
# Print the manifest for `kubectl apply -f`: the chart's output with default values and a namespace.
# deploy/kubernetes/dataplane.yml is this output (make gen), and a test tells when it is not current.
set -euo pipefail
cd "$(dirname "$0")/.."
echo '# Everything that a cluster needs, for `kubectl apply -f`. Made from deploy/helm/dataplane by `make gen`: change it there.'
echo '# docs/kubernetes.md tells how to install it, and how to replace flannel by it and back.'
build/tools/helm template dataplane deploy/helm/dataplane --namespace flannel-dataplane --set namespace.create=true |
	grep -v '^# Source: '
