#!/usr/bin/env bash
# Install the Debian packages that building, tests and the demo call, where they are missing.
# As an ordinary user it only names what is missing: installing is for root.
set -euo pipefail

# command (or file) that must be there : package that brings it
needs=(
	gcc:gcc make:make clang:clang llvm-symbolizer:llvm
	ip:iproute2 nft:nftables iptables:iptables ethtool:ethtool iperf3:iperf3 ping:iputils-ping tcpdump:tcpdump
	/usr/lib/cni/bridge:containernetworking-plugins
	etcd:etcd-server etcdctl:etcd-client openssl:openssl
	unshare:util-linux setpriv:util-linux
	kubectl:kubernetes-client systemd-analyze:systemd
	"$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h:python3-dev"
)
missing=()
for need in "${needs[@]}"; do
	what=${need%:*}
	case $what in
	/*) [ -e "$what" ] || missing+=("${need##*:}") ;;
	*) command -v "$what" >/dev/null || [ -x "/usr/sbin/$what" ] || missing+=("${need##*:}") ;;
	esac
done
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
# The sanitizers' runtime for clang (libFuzzer) is a package of its own.
ls /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a >/dev/null 2>&1 || missing+=(libclang-rt-14-dev)

[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
	echo "missing Debian packages: ${missing[*]}" >&2
	echo "install them as root: apt-get install ${missing[*]}" >&2
	exit 1
fi
echo "installing Debian packages: ${missing[*]}"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
# Debian starts the server that it installs; the tests start their own. One that was there before is left alone.
case " ${missing[*]} " in
*" etcd-server "*) ! command -v systemctl >/dev/null || systemctl disable --now --quiet etcd 2>/dev/null || true ;;
esac
