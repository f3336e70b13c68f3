#!/usr/bin/env python3
"""Holds the simulator to real trials: profiles this machine, then runs the same trials simulated and measured.

    cargo build --release
    engine/examples/sim_vs_real.py --bin target/release --model pipelines/models/falcon-60m.yaml --out /tmp/sim-vs-real

Rounds alternate simulated and measured trials over all layouts, policies and loads; of each trial's rounds the median
counts. The last columns are predicted / measured - 1. Standard library only.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

POLICIES = {
    "sarathi-64": {"policy": "sarathi", "chunk": 64},
    "sarathi-256": {"policy": "sarathi", "chunk": 256},
    "vllm": {"policy": "vllm"},
    "orca": {"policy": "orca"},
}
LENGTHS = {"kind": "uniform", "total_min": 48, "total_max": 224, "prompt_to_output": 3.0}
MAX_MODEL_LEN = 256
# Part of the requests that the simulator says the layout could serve in a second; None: all arrive at once.
LOADS = {"full": None, "part": 0.6}


# A measured trial is repeated, up to so often, while others use more than this share of the machine.
OTHERS_MAX = 0.04
TRIES = 8


def busy():
    """Seconds so far: of the clock, of all cores idle, of our children computing."""
    idle, waiting = pathlib.Path("/proc/stat").read_text().split()[4:6]
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic(), (int(idle) + int(waiting)) / 100, children.ru_utime + children.ru_stime


def others(before, after):
    """The share of the machine that was neither idle nor our children's."""
    wall, idle, ours = (end - start for start, end in zip(before, after))
    return 1 - (idle + ours) / (wall * os.cpu_count())


def undisturbed(*trial):
    """The outcome of a measured trial, and whether others left the machine alone."""
    for _ in range(TRIES):
        before = busy()
        found = outcome(*trial)
        if others(before, busy()) <= OTHERS_MAX:
            return found, True
    return found, False


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def config(policy, requests, arrivals, batch_cap, seed):
    return {
        "format": 1,
        "scheduler": POLICIES[policy] | {"batch_cap": batch_cap},
        "workload": {"requests": requests, "arrivals": arrivals, "lengths": LENGTHS},
        "max_model_len": MAX_MODEL_LEN, "block_size": 16, "gpu_memory_utilization": 0.85, "time_limit_s": 600.0,
        "seed": seed, "repetition": 0, "band": "central", "compat": "honest",
    }


def outcome(tools, how, cluster, weights, configuration, out):
    """Median and P99 of the time between tokens in ms, output tokens a second, and the seconds it took."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(configuration))
    run(tools / "chariot-engine", how, "--cluster", cluster, "--weights", weights, "--config", out / "config.json",
        "--out", out)
    run(tools / "chariot-results", "summarize", "--trial", out, "--out", out)
    summary = json.loads((out / "summary.json").read_text())
    gaps = summary["metrics"]["tbt"]["central"]
    seconds = summary["trial"]["end_ns"] / 1e9
    # Every request but its first token is a gap.
    tokens = gaps["count"] + summary["requests"]["completed"]
    return {"p50": gaps["p50"] * 1e3, "p99": gaps["p99"] * 1e3, "rate": tokens / seconds, "seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="directory of chariot-engine and chariot-results")
    parser.add_argument("--platform", default="pipelines/platforms/cpu-2x4.yaml")
    parser.add_argument("--model", default="pipelines/models/falcon-60m.yaml")
    parser.add_argument("--parallel", default="1x1,2x1,1x2")
    parser.add_argument("--policies", default="sarathi-64,sarathi-256,vllm")
    parser.add_argument("--seconds", type=float, default=90.0, help="of profiling")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--batch-cap", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", type=pathlib.Path, help="a profiled platform, instead of profiling now")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    out, engine = args.out, args.bin / "chariot-engine"
    out.mkdir(parents=True, exist_ok=True)
    profiled = args.profile or out / "profiled.yaml"
    if not args.profile:
        print(run(engine, "profile", "--platform", args.platform, "--model", args.model, "--parallel", args.parallel,
                  "--seconds", args.seconds, "--out", profiled))
    for name, on in (("simulated", "simulator"), ("measured", "cpu")):
        run(engine, "cluster", "--platform", profiled, "--on", on, "--out", out / f"{name}.json")
    trials = {}
    for parallel in args.parallel.split(","):
        tp, pp = parallel.split("x")
        weights = out / parallel / "weights.json"
        weights.parent.mkdir(exist_ok=True)
        run(engine, "shard", "--cluster", out / "measured.json", "--model", args.model, "--tp", tp, "--pp", pp,
            "--out", weights)
        for policy in args.policies.split(","):
            for load, part in LOADS.items():
                burst = config(policy, args.requests, {"kind": "static", "qps": 1e6}, args.batch_cap, 1)
                full = outcome(args.bin, "simulate", out / "simulated.json", weights, burst, out / "trial")
                rate = None if part is None else part * args.requests / full["seconds"]
                arrivals = {"kind": "static", "qps": 1e6} if rate is None else {"kind": "poisson", "qps": rate}
                trials[parallel, policy, load] = (weights, config(policy, args.requests, arrivals, args.batch_cap, 1))
    disturbed = 0
    seen = {key: {"simulate": [], "bench": []} for key in trials}
    for round_number in range(args.rounds):
        order = list(trials) if round_number % 2 == 0 else list(reversed(trials))
        for key in order:
            weights, configuration = trials[key]
            where = weights, configuration, out / "trial"
            seen[key]["simulate"].append(outcome(args.bin, "simulate", out / "simulated.json", *where))
            found, is_quiet = undisturbed(args.bin, "bench", out / "measured.json", *where)
            disturbed += not is_quiet
            seen[key]["bench"].append(found)
            print("round", round_number, *key, "done" if is_quiet else "disturbed by others", file=sys.stderr)
    report(seen)
    print(f"{disturbed} of {len(trials) * args.rounds} measured trials were disturbed by others")


def report(seen):
    middle = lambda outcomes, name: statistics.median(outcome[name] for outcome in outcomes)
    print("| layout | policy | load | median TBT ms, measured | simulated | P99 ms, measured | simulated | tokens/s, measured | simulated |"
          " median | P99 | tokens/s |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    errors = {"p50": [], "p99": [], "rate": []}
    for key, outcomes in seen.items():
        cells, relative = [], []
        for name in errors:
            measured, simulated = middle(outcomes["bench"], name), middle(outcomes["simulate"], name)
            errors[name].append(simulated / measured - 1)
            cells += [f"{measured:.2f}", f"{simulated:.2f}"]
            relative.append(f"{(simulated / measured - 1) * 100:+.1f} %")
        print("|", " | ".join([*key, *cells, *relative]), "|")
    for name, bound in (("p50", 0.10), ("p99", 0.20), ("rate", 0.05)):
        within = sum(abs(error) <= bound for error in errors[name])
        print(f"{name}: {within} of {len(seen)} within {bound:.0%}, worst {max(map(abs, errors[name])):.1%}")


if __name__ == "__main__":
    main()
