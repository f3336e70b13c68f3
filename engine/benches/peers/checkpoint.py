"""Reads a Hugging Face folder of `models.py` into one form for both families."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Layer:
    """One layer of either family; q, k, v are [heads x dim, hidden], rotary by halves."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    up: Tensor
    down: Tensor
    attention_norm: list[Tensor]
    mlp_norm: list[Tensor]
    # One for Llama, none for Falcon.
    gate: list[Tensor]


@dataclass(frozen=True)
class Model:
    family: str
    heads: int
    kv_heads: int
    ffn_size: int
    epsilon: float
    embedding: Tensor
    layers: list[Layer]
    # Weight, and bias where there is one.
    final_norm: list[Tensor]

    @property
    def dim(self) -> int:
        return self.embedding.shape[1] // self.heads


def read(folder: Path) -> Model:
    config = json.loads((folder / "config.json").read_text())
    of_family = read_falcon if config["model_type"] == "falcon" else read_llama
    return of_family(config, load_file(folder / "model.safetensors"))


def read_llama(config: dict, weights: dict[str, Tensor]) -> Model:
    layers = []
    for i in range(config["num_hidden_layers"]):
        of = {name.removeprefix(f"model.layers.{i}."): tensor for name, tensor in weights.items()}
        q, k, v, out = (of[f"self_attn.{name}_proj.weight"] for name in "qkvo")
        gate, up, down = (of[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        norms = [of["input_layernorm.weight"]], [of["post_attention_layernorm.weight"]]
        layers.append(Layer(q, k, v, out, up, down, *norms, [gate]))
    shape = config["num_attention_heads"], config["num_key_value_heads"], config["intermediate_size"]
    embedding, final = weights["model.embed_tokens.weight"], [weights["model.norm.weight"]]
    return Model("llama", *shape, config["rms_norm_eps"], embedding, layers, final)


def read_falcon(config: dict, weights: dict[str, Tensor]) -> Model:
    heads, kv_heads = config["num_attention_heads"], config["num_kv_heads"]
    dim = config["hidden_size"] // heads
    layers = []
    for i in range(config["num_hidden_layers"]):
        of = {name.removeprefix(f"transformer.h.{i}."): tensor for name, tensor in weights.items()}
        # Each group: its query heads, then one key and one value.
        groups = of["self_attention.query_key_value.weight"].unflatten(0, (kv_heads, -1, dim))
        q, k, v = (part.flatten(0, -2) for part in (groups[:, :-2], groups[:, -2], groups[:, -1]))
        names = ("self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
        out, up, down = (of[f"{name}.weight"] for name in names)
        norms = ([of[f"{name}.weight"], of[f"{name}.bias"]] for name in ("ln_attn", "ln_mlp"))
        layers.append(Layer(q, k, v, out, up, down, *norms, []))
    final = [weights["transformer.ln_f.weight"], weights["transformer.ln_f.bias"]]
    shape = heads, kv_heads, config["ffn_hidden_size"]
    embedding = weights["transformer.word_embeddings.weight"]
    return Model("falcon", *shape, config["layer_norm_epsilon"], embedding, layers, final)
