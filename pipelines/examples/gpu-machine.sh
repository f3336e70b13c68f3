#!/usr/bin/env bash
# Everything there is to find out on a machine with NVIDIA GPUs, in one command: what it has, whether kernels and tokens are right, what
# stages and links take, figure 8's layouts measured and predicted. All results go into one folder and one archive. docs/gpu-machine.md.
#
#   pipelines/examples/gpu-machine.sh [--sanitizer] [--nsys] [--full] [--model NAME] [--out DIR] [--bin DIR] [--only STEP,...] [--set NAME=VALUE]...
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 3

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit "$1"
}
out=gpu-machine bin='' model='' only='' sanitizer='' nsys='' full=''
sets=()
while [ $# -gt 0 ]; do
    case $1 in
        --sanitizer) sanitizer=1 ;;
        --nsys) nsys=1 ;;
        --full) full=1 ;;
        --model | --out | --bin | --only | --set)
            [ $# -gt 1 ] || usage 2
            case $1 in
                --model) model=$2 ;;
                --out) out=${2%/} ;;
                --bin) bin=$2 ;;
                --only) only=$2 ;;
                --set) sets+=(--set "$2") ;;
            esac
            shift
            ;;
        -h | --help) usage 0 ;;
        *) usage 2 ;;
    esac
    shift
done
mkdir -p "$out"
report=$out/report.txt
: >"$report"
failures=0

tell() { printf '%-8s %-22s %s\n' "$1" "$2" "$3" | tee -a "$report"; }
skip() { tell SKIPPED "$1" "$2"; }
wanted() { [ -z "$only" ] || [[ ",$only," == *",$1,"* ]]; }

# step NAME COMMAND...: its output goes to OUT/NAME.log, its time and how it ended into the report; the script goes on.
step() {
    local name=$1 began code=0
    shift
    began=$(date +%s)
    printf '%s\n' "$*" >"$out/$name.log"
    "$@" >>"$out/$name.log" 2>&1 || code=$?
    if [ "$code" = 0 ]; then
        tell ok "$name" "$(($(date +%s) - began)) s"
    else
        failures=$((failures + 1))
        tell FAILED "$name" "exit code $code after $(($(date +%s) - began)) s; see $out/$name.log"
        tail -n 5 "$out/$name.log" | sed 's/^/         /'
    fi
    return "$code"
}

if [ -z "$bin" ]; then
    bin=target/release
    step build cargo build --release --locked || exit 1
fi
engine=$bin/chariot-engine
chariot=$bin/chariot
[ -x "$engine" ] || { tell FAILED build "expected $engine, found none"; exit 1; }

# What the machine is, by the system's own tools; each may be absent.
inventory() {
    wanted inventory || return
    { uname -srm; lscpu; free -h; } >"$out/host.txt" 2>&1
    if command -v nvidia-smi >/dev/null; then
        step nvidia-smi nvidia-smi -q
        step topology nvidia-smi topo -m
    else
        skip nvidia-smi "no nvidia-smi in PATH"
    fi
}

# Kernels against plain loops, and the same under compute-sanitizer.
selftest() {
    wanted selftest || return
    if ! "$engine" gpu-selftest --help >/dev/null 2>&1; then
        skip selftest "this build has no gpu-selftest"
        [ -z "$sanitizer" ] || skip sanitizer "there is no gpu-selftest to run under it"
        return
    fi
    step selftest "$engine" gpu-selftest --json
    [ -n "$sanitizer" ] || return
    if ! command -v compute-sanitizer >/dev/null; then
        skip sanitizer "no compute-sanitizer in PATH (it comes with the CUDA toolkit)"
        return
    fi
    local tool
    for tool in memcheck racecheck synccheck; do
        # The self-test computes in processes of its own, one a GPU.
        step "sanitizer-$tool" compute-sanitizer --target-processes all --tool "$tool" --error-exitcode 9 "$engine" gpu-selftest --json
    done
}

tokens() { # MODEL BACKEND TP PP: token ids of three prompts, greedy
    "$engine" generate --json --ignore-eos --model "$1" --backend "$2" --tp "$3" --pp "$4" --max-tokens 12 \
        --prompt-ids 1,2,3 --prompt-ids 7,9,11,13,15,17,19,21 --prompt-ids "$(seq -s, 3 3 120)" |
        tr -d ' \n' | grep -o '"token_ids":\[[0-9,]*\]'
}

same_tokens() { # MODEL TP PP
    local cpu cuda
    cpu=$(tokens "$1" cpu 1 1) || return 1
    cuda=$(tokens "$1" cuda "$2" "$3") || return 1
    printf 'cpu\n%s\ncuda\n%s\n' "$cpu" "$cuda"
    [ "$cpu" = "$cuda" ]
}

# Tokens of the golden models that are stored in f32: those of the CPU, and of one of them in every division there are GPUs for.
parity() {
    wanted parity || return
    local name split tp pp golden=engine/tests/parity/golden
    for name in falcon-new falcon-old llama-tied mistral; do
        for split in 1x1 2x1 1x2 2x2; do
            tp=${split%x*} pp=${split#*x}
            if [ "$split" != 1x1 ] && [ "$name" != falcon-new ]; then
                continue
            elif [ "$gpus" -lt $((tp * pp)) ]; then
                skip "parity-$name-$split" "it needs $((tp * pp)) GPUs, there are $gpus"
            else
                step "parity-$name-$split" same_tokens "$golden/$name" "$tp" "$pp"
            fi
        done
    done
}

# The platform: one node, classes of neighbours that double; bring-up measures their links.
platform() {
    local span=2 name
    {
        echo "name: this-machine"
        echo "nodes: 1"
        echo "gpus_per_node: $ranks"
        echo "gpu_memory_gb: $(awk -v mib="$mib" 'BEGIN { print mib * 1.048576 / 1000 }')"
        echo "links:"
        while :; do
            name=span-$span
            echo "  - {name: $name, span: $span, all_reduce: {alpha_us: 20, ring_gbps: 20}, send_recv: {alpha_us: 20, gbps: 20}}"
            [ "$span" -lt "$ranks" ] || break
            span=$((span * 2))
        done
        echo "runtime: {backend: cuda, threads: 1, transport: shared_memory}"
    } >"$out/platform.yaml"
}

# What measured links depend on: platform, versions, and the order of GPUs.
of_links() {
    cat "$out/platform.yaml"
    grep -E '^(driver for|NCCL) ' "$out/devices.log"
    echo "${CUDA_VISIBLE_DEVICES-all}"
}

are_links_known() { [ -f "$out/measured.yaml" ] && of_links | cmp -s - "$out/measured-from.txt"; }

# Bring-up measures the links, and writes the platform with them: profiles, and what is simulated with those, have this machine's links. An
# earlier run's are kept, so that what was finished with them stays finished.
links() {
    wanted links || return
    if are_links_known; then
        skip links "those of an earlier run are in $out/measured.yaml; delete it to measure them again"
        return
    fi
    step links "$engine" cluster --on cuda --platform "$out/platform.yaml" --out "$out/cluster.json" \
        --platform-out "$out/measured.yaml" || return
    of_links >"$out/measured-from.txt"
    grep warning: "$out/links.log" | tee -a "$report"
}

# The largest preset whose weights in bf16 take at most six tenths of all memory.
choose_model() {
    local gigabytes=$((ranks * mib * 6 / 10 / 954))
    if [ -n "$model" ]; then return; fi
    model=falcon-100m
    [ "$gigabytes" -lt 15 ] || model=mistral-7b
    [ "$gigabytes" -lt 70 ] || model=yi-34b
    [ "$gigabytes" -lt 138 ] || model=llama-2-70b
    [ "$gigabytes" -lt 360 ] || model=falcon-180b
}

experiment() {
    wanted profile || wanted figure-8 || return
    if [ ! -x "$chariot" ] || [ ! -x "$bin/chariot-results" ]; then
        skip figure-8 "expected chariot and chariot-results in $bin"
        return
    fi
    local all=(--set "platform=./$best" --set "model=$model")
    case $out in /*) all[1]="platform=$best" ;; esac
    if [ "$ranks" = 1 ]; then
        all+=(--set 'layouts={tensor: {tp: 1, pp: 1}}'
            --set 'systems={vLLM: {parallel: tensor, scheduler: {policy: vllm}}, Sarathi: {parallel: tensor, scheduler: {policy: sarathi, chunk: 512}}}')
    else
        all+=(--set "layouts={tensor: {tp: $ranks, pp: 1}, hybrid: {tp: $((ranks / 2)), pp: 2}}")
    fi
    [ "$model" != falcon-180b ] || all+=(--set 'tbt=1 s' --set qps=1)
    [ -z "$full" ] || all+=(--set requests=2048 --set 'batches=[8, 16, 32, 64, 128]' --set 'time_limit=30 min' \
        --set 'granularity=2.5 %')
    all+=("${sets[@]}")
    step plan "$chariot" plan figure-8-gpus "${all[@]}" || return
    ! wanted profile || step profile "$chariot" run figure-8-gpus/host "${all[@]}"
    ! wanted figure-8 || step figure-8 "$chariot" run figure-8-gpus --keep-going "${all[@]}"
    [ ! -d out/figure-8-gpus ] || cp -RL out/figure-8-gpus "$out/"
}

# Two seconds of made-up batches of a small model, for a timeline of kernels and of what is between them.
trace() {
    wanted nsys && [ -n "$nsys" ] || return
    if ! command -v nsys >/dev/null; then
        skip nsys "no nsys in PATH (NVIDIA Nsight Systems)"
        return
    fi
    step nsys nsys profile --trace=cuda,osrt --force-overwrite true --output "$out/trace" \
        "$engine" profile --platform "$best" --model pipelines/models/falcon-100m.yaml \
        --parallel "${ranks}x1" --seconds 2 --max-tokens 256 --out "$out/traced.yaml"
}

inventory
step devices "$engine" devices
gpus=$(grep -c '^GPU [0-9]*: ' "$out/devices.log")
if [ "$gpus" = 0 ]; then
    sed 1d "$out/devices.log"
    tell FAILED machine "no GPU can be used, so nothing was measured"
    exit 1
fi
ranks=1
while [ $((ranks * 2)) -le "$gpus" ] && [ "$ranks" -lt 8 ]; do ranks=$((ranks * 2)); done
mib=$(sed -n 's/^GPU [0-9]*: .*, \([0-9]*\) MiB$/\1/p' "$out/devices.log" | sort -n | head -n 1)
choose_model
platform
tell chosen "$model" "$gpus GPUs, $ranks used, $mib MiB each at least"
selftest
parity
links
# The platform as well as it is known.
best=$out/platform.yaml
! are_links_known || best=$out/measured.yaml
experiment
trace
archive=$out.tar.gz
tar --exclude='*.safetensors' -czf "$archive" -C "$(dirname "$out")" "$(basename "$out")"
echo "send back $archive ($failures steps failed; what ran and what did not: $report)"
[ "$failures" = 0 ]
