"""Whole models side by side with PyTorch, llama.cpp and CTranslate2: tokens/s of prefill and decode, in interleaved rounds.

    python run.py --out FOLDER [--rounds 5] [--threads 2] [--engine COMMAND]

writes FOLDER/samples.csv, FOLDER/checks.csv and FOLDER/table.md; `--report` writes the table of samples that are there.
`--engine` adds rows `chariot`. Its COMMAND is a template, for instance

    chariot-engine bench-model --model {hf} --dtype {dtype} --prompt {prompt} --batch {batch} --new {new} \\
        --threads {threads}

The contract, which the peers keep as well (`measure.py`):

- {hf} is a Hugging Face folder whose weights are stored in {dtype} (f32 or bf16), to be computed in that type;
- {batch} prompts of {prompt} tokens, any ids; prefill takes them to their first token, decode then takes {new} greedy
  steps, each of one token a sequence;
- a pass that does not count, then the median over 2 passes or more and 1.5 s or more;
- the last line of stdout is {"prefill_tokens_per_s": batch * prompt / s, "decode_tokens_per_s": batch * new / s}, the
  latter null where new is 0.
"""

import argparse
import csv
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from shape import DTYPES, FAMILIES, HIDDEN, LAYER_PARAMETERS, LAYERS, PARAMETERS

HERE = Path(__file__).parent
MEASURE = f"{sys.executable} {HERE / 'measure.py'}"
SHAPE = "--dtype {dtype} --prompt {prompt} --batch {batch} --new {new} --threads {threads}"
PEERS = {
    "PyTorch": f"{MEASURE} torch --model {{hf}} {SHAPE}",
    "PyTorch packed": f"{MEASURE} torch-packed --model {{hf}} {SHAPE}",
    "llama.cpp": f"{MEASURE} llama.cpp --model {{gguf}} {SHAPE}",
    "CTranslate2": f"{MEASURE} ctranslate2 --model {{ct2}} {SHAPE}",
}
MODELS = [(family, dtype) for family in FAMILIES for dtype in DTYPES]
# A check fails over this part of the logits' standard deviation.
APART_MAX = {"f32": 0.02, "bf16": 0.2}


@dataclass(frozen=True)
class Cell:
    name: str
    prompt: int
    batch: int
    new: int


PREFILL = Cell("prefill 512", 512, 1, 0)
CELLS = [PREFILL] + [Cell(f"decode b{batch}", 64, batch, 32) for batch in (1, 8, 32)]


@dataclass(frozen=True)
class Sample:
    """`others`: part of the machine's processor time that went to other processes meanwhile."""

    round: int
    family: str
    dtype: str
    cell: str
    peer: str
    tokens_per_s: float
    others: float


def model_paths(out: Path, family: str, dtype: str) -> dict[str, Path]:
    folder = out / "models" / f"{family}-{dtype}"
    return {"hf": folder / "hf", "gguf": folder / "model.gguf", "ct2": folder / "ct2"}


def prepare(out: Path) -> None:
    import checkpoint
    import convert
    import models

    for family, dtype in MODELS:
        paths = model_paths(out, family, dtype)
        if paths["ct2"].exists():
            continue
        models.write(family, dtype, paths["hf"])
        model = checkpoint.read(paths["hf"])
        convert.write_gguf(model, paths["gguf"])
        convert.write_ctranslate2(model, paths["ct2"])
    flags = ["-O3", "-march=native", "-pthread"]
    subprocess.run(["g++", *flags, str(HERE / "machine.cpp"), "-o", str(out / "machine")], check=True)


def check(out: Path, threads: int) -> list[tuple[str, str, str]]:
    """That every peer computes the same model, else the table compares nothing. Returns who can run what."""
    import models
    from measure import check_tokens

    able = []
    with open(out / "checks.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["family", "dtype", "peer", "apart_of_std", "same_first_token"])
        for family, dtype, peer in ((*m, p) for m in MODELS for p in PEERS):
            paths, found = model_paths(out, family, dtype), out / "check.npy"
            found.unlink(missing_ok=True)
            words = PEERS[peer].split(" --prompt")[0].format(**paths, dtype=dtype)
            command = f"{words} --threads {threads} --check {found}"
            if run(command) is None:
                continue
            want, got = models.reference_logits(paths["hf"], check_tokens()), np.load(found)
            apart = float(abs(got - want).max() / want.std())
            able.append((family, dtype, peer))
            rows.writerow([family, dtype, peer, f"{apart:.2g}", int(got.argmax() == want.argmax())])
            if apart > APART_MAX[dtype]:
                sys.exit(
                    f"{family} {dtype} {peer}: expected logits within {APART_MAX[dtype]} spreads, found {apart:.2g}"
                )
    return able


def run(command: str) -> str | None:
    """What it prints; nothing where it fails, which leaves a gap in the table and a word on stderr."""
    done = subprocess.run(shlex.split(command), capture_output=True, text=True)
    if done.returncode != 0:
        print(f"failed: {command}\n  {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return done.stdout


def processor_seconds() -> tuple[float, float]:
    """Busy and total seconds of all processors since the start, from /proc/stat."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    per_second = os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - idle) / per_second, sum(ticks) / per_second


def children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measured(command: str) -> tuple[dict[str, float], float] | None:
    """The JSON a command prints, and the part of the machine that others took."""
    (busy, total), own = processor_seconds(), children_seconds()
    printed = run(command)
    if printed is None:
        return None
    (busy_after, total_after), own_after = processor_seconds(), children_seconds()
    others = (busy_after - busy - (own_after - own)) / (total_after - total)
    return json.loads(printed.strip().splitlines()[-1]), round(max(0.0, others), 3)


def sample_rounds(out: Path, rounds: int, threads: int, commands: dict[tuple[str, str, str], str]) -> None:
    """Round by round, cell by cell, peer by peer, so that what drifts drifts for all."""
    with open(out / "samples.csv", "w", newline="") as file:
        rows = csv.DictWriter(file, [field.name for field in fields(Sample)])
        rows.writeheader()
        for number in range(rounds):
            for sample in one_round(out, number, threads, commands):
                rows.writerow(asdict(sample))
                file.flush()
            print(f"round {number + 1} of {rounds}", file=sys.stderr)


def one_round(out: Path, number: int, threads: int, commands: dict[tuple[str, str, str], str]) -> Iterator[Sample]:
    """`commands` by family, dtype and peer."""
    for used in sorted({1, threads}):
        found = measured(f"{out / 'machine'} {used}")
        if found:
            for name in ("read_gb_per_s", "fma_gflop_per_s"):
                yield Sample(number, "machine", "", name, f"{used} threads", found[0][name], found[1])
    for model, cell in ((m, c) for m in MODELS for c in CELLS):
        values = asdict(cell) | model_paths(out, *model) | {"dtype": model[1], "threads": threads}
        for (*of, peer), template in commands.items():
            found = measured(template.format(**values)) if tuple(of) == model else None
            if found:
                tokens_per_s = found[0]["decode_tokens_per_s" if cell.new else "prefill_tokens_per_s"]
                yield Sample(number, *model, cell.name, peer, round(tokens_per_s, 1), found[1])


def table(out: Path, threads: int) -> str:
    """Markdown: median and range of every cell."""
    found = defaultdict(list)
    with open(out / "samples.csv") as file:
        for row in csv.DictReader(file):
            found[row["family"], row["dtype"], row["cell"], row["peer"]].append(float(row["tokens_per_s"]))
    machine = {cell: found["machine", "", cell, f"{threads} threads"] for cell in ("read_gb_per_s", "fma_gflop_per_s")}
    peers = [peer for peer in (*PEERS, "chariot") if any(key[3] == peer for key in found)]
    reads, multiplies = spread(machine["read_gb_per_s"]), spread(machine["fma_gflop_per_s"])
    lines = [f"{threads} threads; reads {reads} GB/s, f32 FMA {multiplies} GFLOP/s", ""]
    lines += ["| model | peer | " + " | ".join(cell.name for cell in CELLS) + " |", "|---|---|" + "---|" * len(CELLS)]
    for family, dtype in MODELS:
        for peer in peers:
            cells = [found.get((family, dtype, cell.name, peer), []) for cell in CELLS]
            if any(cells):
                lines.append(f"| {family} {dtype} | {peer} | {' | '.join(map(spread, cells))} |")
    for dtype in DTYPES:
        roofs = " | ".join(f"{roof(machine, dtype, cell):.0f}" for cell in CELLS)
        lines.append(f"| either {dtype} | *roof* | {roofs} |")
    return "\n".join([*lines, "", *peak_shares(out, threads)]) + "\n"


def peak_shares(out: Path, threads: int) -> Iterator[str]:
    """Markdown: what part of the f32 FMA peak of its round each prefill came to, in either type."""
    peaks, rates = {}, defaultdict(dict)
    with open(out / "samples.csv") as file:
        for row in csv.DictReader(file):
            if (row["cell"], row["peer"]) == ("fma_gflop_per_s", f"{threads} threads"):
                peaks[row["round"]] = float(row["tokens_per_s"]) * 1e9
            elif row["cell"] == PREFILL.name:
                rates[row["family"], row["dtype"], row["peer"]][row["round"]] = float(row["tokens_per_s"])
    yield f"| {PREFILL.name}, % of the f32 FMA peak | peer | linear layers | with attention |"
    yield "|---|---|---|---|"
    for family, dtype in MODELS:
        for peer in (*PEERS, "chariot"):
            rounds = rates.get((family, dtype, peer), {}).items()
            counts = [flop_per_token(PREFILL.prompt, attention) for attention in (False, True)]
            cells = [spread([100 * rate * flop / peaks[number] for number, rate in rounds]) for flop in counts]
            if rounds:
                yield f"| {family} {dtype} | {peer} | {' | '.join(cells)} |"


def flop_per_token(prompt: int, with_attention: bool) -> float:
    """Of a prompt's tokens, a multiply-add being two. The head, which one token of a prompt needs, norms and activations are left out.

    Attention: scores, and sums of values, of the keys that a token sees: half of the prompt's on average.
    """
    linear = 2 * LAYERS * LAYER_PARAMETERS
    return linear + with_attention * 2 * 2 * LAYERS * HIDDEN * (prompt + 1) / 2


def spread(values: list[float]) -> str:
    if not values:
        return "-"
    digits = 0 if statistics.median(values) >= 100 else 1
    return f"**{statistics.median(values):.{digits}f}** ({min(values):.{digits}f}-{max(values):.{digits}f})"


def roof(machine: dict[str, list[float]], dtype: str, cell: Cell) -> float:
    """Tokens/s if each step read every weight once at the measured bandwidth, or multiplied at the f32 peak; no attention."""
    flop_per_s = statistics.median(machine["fma_gflop_per_s"]) * 1e9
    if not cell.new:
        return flop_per_s / flop_per_token(cell.prompt, with_attention=False)
    bytes_per_step = PARAMETERS * {"f32": 4, "bf16": 2}[dtype]
    steps_per_s = statistics.median(machine["read_gb_per_s"]) * 1e9 / bytes_per_step
    return min(cell.batch * steps_per_s, flop_per_s / (2 * PARAMETERS))


def run_all(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    prepare(args.out)
    commands = {able: PEERS[able[2]] for able in check(args.out, args.threads)}
    if args.engine:
        commands |= {(*model, "chariot"): args.engine for model in MODELS}
    sample_rounds(args.out, args.rounds, args.threads, commands)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engine", help="command template that adds rows chariot")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    args = parser.parse_args()
    if not args.report:
        run_all(args)
    (args.out / "table.md").write_text(table(args.out, args.threads))
    print((args.out / "table.md").read_text())


if __name__ == "__main__":
    main()
