"""Measures one peer in one cell, by the contract of `run.py`: prints {"prefill_tokens_per_s": , "decode_tokens_per_s": }.

    python measure.py PEER --model PATH --dtype f32 --prompt 64 --batch 8 --new 64 --threads 2
    python measure.py PEER --model PATH --dtype f32 --threads 2 --check LOGITS.npy
"""

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Protocol

import numpy as np

from shape import VOCAB_SIZE

REPEATS_MIN = 2
SECONDS = 1.5
# The tokens of a check: some in one pass, then some one by one.
CHECK_PROMPT, CHECK_STEPS = 48, 8


@dataclass(frozen=True)
class Times:
    prefill_s: float
    decode_s: float


class Runner(Protocol):
    def run(self, prompts: np.ndarray, new: int) -> Times:
        """Prefills [batch, prompt] up to its first token, then takes `new` greedy steps."""

    def last_logits(self, tokens: np.ndarray) -> np.ndarray:
        """[tokens] to [vocab]."""


class Stepper(Protocol):
    def prefill(self, prompts: np.ndarray) -> np.ndarray: ...

    def decode(self, tokens: np.ndarray) -> np.ndarray: ...


class Steps:
    """A runner of a peer that computes logits step by step."""

    def __init__(self, stepper: Stepper):
        self.stepper = stepper

    def run(self, prompts: np.ndarray, new: int) -> Times:
        start = perf_counter()
        tokens = self.stepper.prefill(prompts).argmax(axis=1)
        middle = perf_counter()
        for _ in range(new):
            tokens = self.stepper.decode(tokens).argmax(axis=1)
        return Times(middle - start, perf_counter() - middle)

    def last_logits(self, tokens: np.ndarray) -> np.ndarray:
        logits = self.stepper.prefill(tokens[None, :-CHECK_STEPS])
        for token in tokens[-CHECK_STEPS:]:
            logits = self.stepper.decode(np.array([token]))
        return logits[0]


class CTranslate2:
    """Its generator takes whole prompts and gives whole answers, so decoding is what a longer answer costs more."""

    def __init__(self, folder: Path, dtype: str, threads: int):
        import ctranslate2

        kind = {"f32": "float32", "bf16": "bfloat16"}[dtype]
        self.generator = ctranslate2.Generator(str(folder), compute_type=kind, intra_threads=threads, inter_threads=1)
        if self.generator.compute_type != kind:
            raise RuntimeError(f"expected CTranslate2 to compute in {kind}, found {self.generator.compute_type}")

    def run(self, prompts: np.ndarray, new: int) -> Times:
        words = prompts.astype(str).tolist()
        prefill_s = self.seconds(words, 1)
        return Times(prefill_s, self.seconds(words, 1 + new) - prefill_s if new else 0)

    def seconds(self, words: list[list[str]], new: int) -> float:
        start = perf_counter()
        answers = self.generator.generate_batch(
            words, max_length=new, min_length=new, sampling_topk=1, include_prompt_in_result=False
        )
        took = perf_counter() - start
        for answer in answers:
            if len(answer.sequences_ids[0]) != new:
                raise RuntimeError(f"expected {new} tokens, found {len(answer.sequences_ids[0])}")
        return took

    def last_logits(self, tokens: np.ndarray) -> np.ndarray:
        return np.array(self.generator.forward_batch([tokens.astype(str).tolist()]))[0, -1]


def runner(peer: str, model: Path, dtype: str, batch: int, context: int, threads: int) -> Runner:
    """Imports the peer's library alone."""
    if peer == "ctranslate2":
        return CTranslate2(model, dtype, threads)
    if peer == "llama.cpp":
        from llama_cpp_loop import LlamaCpp

        return Steps(LlamaCpp(model, batch, context, threads))
    import torch_loop

    loop = {"torch": torch_loop.TorchLoop, "torch-packed": torch_loop.TorchPacked}[peer]
    return Steps(loop(model, batch, context, threads))


def check_tokens() -> np.ndarray:
    return np.random.default_rng(7).integers(1, VOCAB_SIZE, CHECK_PROMPT + CHECK_STEPS)


def measure(peer: Runner, prompts: np.ndarray, new: int) -> dict[str, float | None]:
    """Medians over repeats, after a short one that does not count."""
    peer.run(prompts, min(new, 4))
    times, start = [], perf_counter()
    while len(times) < REPEATS_MIN or perf_counter() - start < SECONDS:
        times.append(peer.run(prompts, new))
    decode = len(prompts) * new / statistics.median(t.decode_s for t in times) if new else None
    return {
        "prefill_tokens_per_s": prompts.size / statistics.median(t.prefill_s for t in times),
        "decode_tokens_per_s": decode,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=("torch", "torch-packed", "llama.cpp", "ctranslate2"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prompt", type=int, default=CHECK_PROMPT)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--new", type=int, default=CHECK_STEPS)
    parser.add_argument("--check", type=Path)
    args = parser.parse_args()
    peer = runner(args.peer, args.model, args.dtype, args.batch, args.prompt + args.new, args.threads)
    if args.check:
        np.save(args.check, peer.last_logits(check_tokens()))
        return
    prompts = np.random.default_rng(7).integers(1, VOCAB_SIZE, (args.batch, args.prompt))
    print(json.dumps(measure(peer, prompts, args.new)))


if __name__ == "__main__":
    main()
