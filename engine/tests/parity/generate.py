"""Writes the golden models: tiny random checkpoints, and what Hugging Face Transformers computes from them.

Refuses to write a golden that common mistakes would pass, or whose greedy path hangs on rounding.
"""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from mutants import mutants

TOLERANCE = 2e-4
# A mistake must move the logits by this much, in every prompt of SHOWS_FROM tokens or more.
MOVEMENT_MIN = 10 * TOLERANCE
SHOWS_FROM = 17
MARGIN_MIN = 10 * TOLERANCE
DISTINCT_MIN = 8
NEW_TOKENS = 32
PROMPT_LENGTHS = (1, 2, 17, 33, 64)
# The prompt whose decode logits are stored as well.
DECODE_PROMPT = 2
VOCAB_SIZE = 250
GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Golden:
    name: str
    config: PreTrainedConfig
    dtype: torch.dtype = torch.float32
    shard_bytes_max: int = 1 << 30
    # How config.json states the rotary base: "parameters", "theta" (as before version 5) or "absent" (1e4).
    rope: str = "parameters"


def falcon(theta: float = 5e4, **members: object) -> FalconConfig:
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "ffn_hidden_size": 256}
    return FalconConfig(layer_norm_epsilon=2e-3, **(shape | shared(theta) | members))


def llama(kind: type[PreTrainedConfig] = LlamaConfig, theta: float = 5e4, **members: object) -> PreTrainedConfig:
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "intermediate_size": 160}
    return kind(rms_norm_eps=2e-3, **(shape | shared(theta) | members))


def shared(theta: float) -> dict[str, object]:
    rope = {"rope_type": "default", "rope_theta": theta}
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 256, "rope_parameters": rope} | tokens


def goldens() -> list[Golden]:
    new = {"new_decoder_architecture": True, "hidden_size": 128, "num_attention_heads": 16, "num_kv_heads": 8}
    old = {"multi_query": False, "num_hidden_layers": 3}
    wide = {"num_hidden_layers": 4, "ffn_hidden_size": 192}
    return [
        Golden("falcon-new", falcon(1e4, **new, **wide), shard_bytes_max=600_000, rope="absent"),
        Golden("falcon-new-one-norm", falcon(**new, num_ln_in_parallel_attn=1, ffn_hidden_size=192)),
        Golden("falcon-mq", falcon(num_hidden_layers=4), dtype=torch.bfloat16),
        Golden("falcon-old", falcon(**old)),
        Golden("falcon-old-sequential", falcon(**old, parallel_attn=False)),
        Golden("llama-gqa", llama(num_hidden_layers=4, num_key_value_heads=2), dtype=torch.float16, rope="theta"),
        # Nothing here is a multiple of 16.
        Golden("llama-tied", llama(hidden_size=72, head_dim=10, intermediate_size=200, tie_word_embeddings=True)),
        Golden("mistral", llama(MistralConfig, head_dim=16, num_key_value_heads=4, sliding_window=None)),
    ]


def randomize(model: PreTrainedModel, seed: int) -> None:
    """Weights at which mistakes show: layers outweigh the embedding, scores are peaked, norms are no identity."""
    generator = torch.Generator().manual_seed(seed)
    is_falcon = model.config.model_type == "falcon"
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("bias"):
            parameter.data = 0.3 * noise
        elif parameter.dim() == 1:
            parameter.data = 1.0 + 0.3 * noise
        elif "embed" in name or "lm_head" in name:
            # Small, lest a tied head answer with the last token.
            parameter.data = noise / parameter.shape[1] ** 0.5
        else:
            # Falcon's MLP outweighs the rest, since tanh-GELU is the smallest mistake.
            gain = 4.0 if "4h_to_h" in name else 1.5 if is_falcon else 1.0
            parameter.data = gain * noise / parameter.shape[1] ** 0.5
    # The spread of the logits.
    (model.transformer.ln_f if is_falcon else model.model.norm).weight.data *= 5 if is_falcon else 3


def write_model(golden: Golden, folder: Path, seed: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    model = AutoModelForCausalLM.from_config(golden.config)
    randomize(model, seed)
    model.to(golden.dtype).save_pretrained(folder, max_shard_size=golden.shard_bytes_max)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if golden.rope != "parameters":
        rope = config.pop("rope_parameters")
        config |= {"rope_theta": rope["rope_theta"]} if golden.rope == "theta" else {}
    path.write_text(json.dumps(config, indent=2) + "\n")


def load(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def logits(model: PreTrainedModel, tokens: list[int]) -> Tensor:
    """[tokens, vocab]: every position in one pass, without a KV cache."""
    return model(torch.tensor([tokens]), use_cache=False).logits[0].float()


def greedy(model: PreTrainedModel, prompt: list[int]) -> tuple[list[int], list[float], Tensor]:
    """Tokens, the margin of each over the second best, and the logits [NEW_TOKENS, vocab] that chose them."""
    tokens, margins, rows = [], [], []
    for _ in range(NEW_TOKENS):
        row = logits(model, prompt + tokens)[-1]
        best = row.topk(2)
        tokens.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
        rows.append(row)
    return tokens, margins, torch.stack(rows)


def prompts(length: int) -> Iterator[list[int]]:
    generator = torch.Generator().manual_seed(length)
    while True:
        yield torch.randint(VOCAB_SIZE, (length,), generator=generator).tolist()


def steady_path(model: PreTrainedModel, length: int) -> tuple[list[int], list[int], list[float], Tensor]:
    """The first prompt whose greedy path is neither a loop nor decided by rounding."""
    for _, prompt in zip(range(100), prompts(length), strict=False):
        tokens, margins, rows = greedy(model, prompt)
        if min(margins) >= MARGIN_MIN and len(set(tokens)) >= DISTINCT_MIN:
            return prompt, tokens, margins, rows
    sys.exit(f"expected a steady greedy path from a prompt of {length} tokens, found none in 100 prompts")


def movements(right: list[Tensor], wrong: PreTrainedModel, prompts: list[list[int]]) -> list[float]:
    """How far the logits of each prompt's last position move."""
    pairs = zip(right, prompts, strict=True)
    return [float(f"{(logits(wrong, prompt)[-1] - want[-1]).abs().max():.2g}") for want, prompt in pairs]


def check_mutants(name: str, found: dict[str, list[float]]) -> None:
    for mutant, moved in found.items():
        least = min(m for m, length in zip(moved, PROMPT_LENGTHS, strict=True) if length >= SHOWS_FROM)
        if least < MOVEMENT_MIN:
            sys.exit(f"{name}: expected {mutant} to move the logits by {MOVEMENT_MIN}, found {least}")


def drift(right: list[Tensor], prompts: list[list[int]], folder: Path) -> dict[str, float]:
    """How far PyTorch's other precisions lie from its f32, over every position."""
    found = {}
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        model = load(folder, dtype)
        apart = [(logits(model, prompt) - want).abs().max() for want, prompt in zip(right, prompts, strict=True)]
        found[str(dtype).removeprefix("torch.")] = float(f"{max(apart):.2g}")
    return found


def write_golden(golden: Golden, seed: int) -> None:
    folder = GOLDEN / golden.name
    write_model(golden, folder, seed)
    model = load(folder)
    paths = [steady_path(model, length) for length in PROMPT_LENGTHS]
    inputs = [prompt for prompt, *_ in paths]
    prefill = [logits(model, prompt) for prompt in inputs]
    moved = {name: movements(prefill, mutant, inputs) for name, mutant in mutants(model).items()}
    apart = drift(prefill, inputs, folder)
    print(f"{golden.name}: logits within {max(p.abs().max() for p in prefill):.1f}, drift {apart}, moved {moved}")
    check_mutants(golden.name, moved)
    if apart["float64"] > TOLERANCE / 10:
        sys.exit(f"{golden.name}: expected f32 within {TOLERANCE / 10} of f64, found {apart['float64']}")
    tensors = {f"prefill.{i}": rows for i, rows in enumerate(prefill)}
    tensors[f"decode.{DECODE_PROMPT}"] = paths[DECODE_PROMPT][3]
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "logits.safetensors")
    record = {
        "source": f"Hugging Face Transformers {transformers.__version__}, PyTorch {torch.__version__}",
        "seed": seed,
        "tolerance": TOLERANCE,
        "drift": apart,
        "mutants": moved,
        "prompts": [
            {"tokens": prompt, "greedy": tokens, "margins": [round(margin, 4) for margin in margins]}
            for prompt, tokens, margins, _ in paths
        ],
    }
    (folder / "golden.json").write_text(one_list_a_line(record))


def one_list_a_line(record: dict[str, object]) -> str:
    """JSON with each list of numbers on one line."""
    joined = re.sub(r"\[([^\[\]{}]*)\]", lambda found: f"[{' '.join(found[1].split())}]", json.dumps(record, indent=1))
    return joined + "\n"


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for seed, golden in enumerate(goldens()):
        if golden.name in sys.argv[1:] or len(sys.argv) == 1:
            write_golden(golden, seed)


if __name__ == "__main__":
    main()
