#!/usr/bin/env bash
# Two ranks in two network namespaces, joined by a link of a given rate and delay: the communicators over a real TCP connection that the
# kernel slows down, rather than over emulated links. Needs root, `ip` and `tc`; builds the benchmark first.
#
#   sudo pipelines/examples/netns.sh [RATE] [DELAY] [FILE]     e.g. netns.sh 1gbit 50us
#
# With FILE what is printed is kept there, too. `pipelines/examples/netns.yaml` runs it as a step of a pipeline.
set -euo pipefail
rate=${1:-1gbit}
delay=${2:-50us}
file=$(realpath -m "${3:-/dev/null}")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

skip() {
    echo "SKIPPED: $1; nothing was measured" >&2
    exit 0
}
[ "$(id -u)" = 0 ] || skip "network namespaces need root"
command -v ip >/dev/null && command -v tc >/dev/null || skip "no ip or tc (package iproute2)"

a=chariot-a-$$
b=chariot-b-$$
remove() {
    ip netns del "$a" 2>/dev/null || true
    ip netns del "$b" 2>/dev/null || true
}
trap remove EXIT

ip netns add "$a" 2>/dev/null && ip netns add "$b" 2>/dev/null || skip "this system permits no network namespaces"
ip link add veth0 netns "$a" type veth peer name veth0 netns "$b" || skip "this system permits no veth pairs"
# Both directions alike: delay by netem, rate by tbf beneath it; a kernel without netem still limits the rate.
shape() {
    ip -n "$1" addr add "$2/24" dev veth0
    ip -n "$1" link set lo up
    ip -n "$1" link set veth0 up
    if ip netns exec "$1" tc qdisc add dev veth0 root handle 1: netem delay "$delay" limit 100000 2>/dev/null; then
        ip netns exec "$1" tc qdisc add dev veth0 parent 1: handle 2: tbf rate "$rate" burst 256kb latency 400ms ||
            skip "this kernel has no tbf"
    else
        echo "no netem in this kernel: the rate is limited, no delay is added" >&2
        ip netns exec "$1" tc qdisc add dev veth0 root tbf rate "$rate" burst 256kb latency 400ms || skip "this kernel has no tbf"
    fi
}
shape "$a" 10.77.0.1
shape "$b" 10.77.0.2

echo "two ranks over $rate, $delay each way:"
cargo bench --quiet -p chariot-engine --bench comm -- \
    --via "10.77.0.1=ip netns exec $a" --via "10.77.0.2=ip netns exec $b" | tee "$file"
