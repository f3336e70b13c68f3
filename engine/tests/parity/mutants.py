"""Models with one mistake each: what a wrong reading of a checkpoint would compute.

Every mistake is a change of weights or of the configuration, so that Transformers itself computes it.
Knows no file and no golden.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

Weights = dict[str, Tensor]


@dataclass
class Attention:
    """Projections of one layer: q [heads, dim, hidden], k and v [kv_heads, dim, hidden], out [hidden, heads, dim]."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor


def head_dim(config: PreTrainedConfig) -> int:
    return config.head_dim or config.hidden_size // config.num_attention_heads


def kv_heads(config: PreTrainedConfig) -> int:
    if config.model_type != "falcon":
        return config.num_key_value_heads
    if config.new_decoder_architecture:
        return config.num_kv_heads
    return 1 if config.multi_query else config.num_attention_heads


def read_attention(config: PreTrainedConfig, weights: Weights, layer: int) -> Attention:
    dim, hidden = head_dim(config), config.hidden_size
    if config.model_type == "falcon":
        prefix = f"transformer.h.{layer}.self_attention"
        # Each group: its query heads, then one key and one value.
        groups = weights[f"{prefix}.query_key_value.weight"].view(kv_heads(config), -1, dim, hidden)
        q, k, v = groups[:, :-2].flatten(0, 1), groups[:, -2], groups[:, -1]
        out = weights[f"{prefix}.dense.weight"]
    else:
        prefix = f"model.layers.{layer}.self_attn"
        q, k, v = (weights[f"{prefix}.{name}_proj.weight"].view(-1, dim, hidden) for name in "qkv")
        out = weights[f"{prefix}.o_proj.weight"]
    return Attention(q, k, v, out.view(hidden, -1, dim))


def write_attention(config: PreTrainedConfig, weights: Weights, layer: int, attention: Attention) -> None:
    q, k, v, out = attention.q, attention.k, attention.v, attention.out.flatten(1)
    if config.model_type == "falcon":
        prefix = f"transformer.h.{layer}.self_attention"
        groups = torch.cat([q.unflatten(0, (len(k), -1)), k[:, None], v[:, None]], dim=1)
        weights[f"{prefix}.query_key_value.weight"] = groups.flatten(0, 2)
        weights[f"{prefix}.dense.weight"] = out
    else:
        prefix = f"model.layers.{layer}.self_attn"
        for name, part in zip("qkv", (q, k, v), strict=True):
            weights[f"{prefix}.{name}_proj.weight"] = part.flatten(0, 1)
        weights[f"{prefix}.o_proj.weight"] = out


def flat_qkv(attention: Attention) -> Attention:
    """Reads the fused rows as all queries, then all keys, then all values."""
    per_group = attention.q.unflatten(0, (len(attention.k), -1))
    rows = torch.cat([per_group, attention.k[:, None], attention.v[:, None]], dim=1).flatten(0, 1)
    q, k, v = rows.split([len(attention.q), len(attention.k), len(attention.v)])
    return Attention(q, k, v, attention.out)


def swapped_kv(attention: Attention) -> Attention:
    return Attention(attention.q, attention.v, attention.k, attention.out)


def kv_head_modulo(attention: Attention) -> Attention:
    """Query head h reads KV head h % kv_heads, where it should read h / group."""
    heads = torch.arange(len(attention.q)).view(-1, len(attention.k)).T.flatten()
    return Attention(attention.q[heads], attention.k, attention.v, attention.out[:, heads])


def scale_of_64(attention: Attention) -> Attention:
    """Scores scaled by 1/8, right for heads of 64 alone."""
    scale = sqrt(attention.q.shape[1]) / 8
    return Attention(attention.q * scale, attention.k, attention.v, attention.out)


def paired_rotary(attention: Attention) -> Attention:
    """Rotates neighbours (2i, 2i + 1), where it should rotate halves (i, i + dim / 2)."""
    order = torch.arange(attention.q.shape[1]).view(-1, 2).T.flatten()
    return Attention(attention.q[:, order], attention.k[:, order], attention.v, attention.out)


def swapped_norms(weights: Weights) -> None:
    for name in [name for name in weights if ".ln_attn." in name]:
        other = name.replace(".ln_attn.", ".ln_mlp.")
        weights[name], weights[other] = weights[other], weights[name]


def no_norm_bias(weights: Weights) -> None:
    for name in weights:
        if name.endswith(".bias"):
            weights[name] = torch.zeros_like(weights[name])


def norm_plus_one(weights: Weights) -> None:
    """Norm weights stored around 0, as some families do."""
    for name in weights:
        if name.endswith("norm.weight"):
            weights[name] = weights[name] + 1


def tied_head(weights: Weights) -> None:
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]


def attention_mutants(config: PreTrainedConfig) -> dict[str, Callable[[Attention], Attention]]:
    mutants = {"swapped_kv": swapped_kv, "scale_of_64": scale_of_64, "paired_rotary": paired_rotary}
    if config.model_type == "falcon" and kv_heads(config) > 1:
        mutants["flat_qkv"] = flat_qkv
    if 1 < kv_heads(config) < config.num_attention_heads:
        mutants["kv_head_modulo"] = kv_head_modulo
    return mutants


def weight_mutants(config: PreTrainedConfig) -> dict[str, Callable[[Weights], None]]:
    if config.model_type != "falcon":
        return {"norm_plus_one": norm_plus_one} | ({} if config.tie_word_embeddings else {"tied_head": tied_head})
    two_norms = config.new_decoder_architecture and config.num_ln_in_parallel_attn != 1
    return {"no_norm_bias": no_norm_bias} | ({"swapped_norms": swapped_norms} if two_norms else {})


def config_mutants(config: PreTrainedConfig) -> dict[str, dict[str, object]]:
    """Name -> members that are read wrongly."""
    theta = 1e4 if config.rope_parameters["rope_theta"] != 1e4 else 1e6
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    if config.model_type == "falcon":
        return {
            "tanh_gelu": {"activation": "gelu_pytorch_tanh"},
            "norm_epsilon_1e-5": {"layer_norm_epsilon": 1e-5},
            f"rope_theta_{theta:.0f}": rope,
        }
    return {
        "gelu": {"hidden_act": "gelu"},
        "norm_epsilon_1e-5": {"rms_norm_eps": 1e-5},
        f"rope_theta_{theta:.0f}": rope,
    }


def build(config: PreTrainedConfig, weights: Weights) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.load_state_dict(weights)
    return model


def mutants(model: PreTrainedModel) -> dict[str, PreTrainedModel]:
    """Every mistake that the model can show, as a model that makes it."""
    config, built = model.config, {}
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for name, members in config_mutants(config).items():
        wrong = deepcopy(config)
        for member, value in members.items():
            setattr(wrong, member, value)
        built[name] = build(wrong, weights)
    for name, change in attention_mutants(config).items():
        changed = dict(weights)
        for layer in range(config.num_hidden_layers):
            write_attention(config, changed, layer, change(read_attention(config, weights, layer)))
        built[name] = build(config, changed)
    for name, alter in weight_mutants(config).items():
        changed = dict(weights)
        alter(changed)
        built[name] = build(config, changed)
    return built
