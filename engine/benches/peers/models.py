"""The models that are measured, in Hugging Face form with seeded random weights, and what Transformers computes from them.

57 M parameters: small enough for seconds a cell, large enough that no cache holds them.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, FalconConfig, LlamaConfig, PreTrainedConfig

from shape import FFN_SIZE, HEADS, HIDDEN, KV_HEADS, LAYERS, PARAMETERS, VOCAB_SIZE

TORCH_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
SEED = 1


def config(family: str) -> PreTrainedConfig:
    members = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    members |= {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 2048, "tie_word_embeddings": True}
    ffn_size = FFN_SIZE[family]
    if family == "llama":
        return LlamaConfig(num_key_value_heads=KV_HEADS, intermediate_size=ffn_size, **members)
    # falcon-40B and falcon-180B in miniature.
    return FalconConfig(new_decoder_architecture=True, num_kv_heads=KV_HEADS, ffn_hidden_size=ffn_size, **members)


def write(family: str, dtype: str, folder: Path) -> None:
    """The f32 weights of a family, rounded to `dtype`."""
    model = AutoModelForCausalLM.from_config(config(family))
    generator = torch.Generator().manual_seed(SEED)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("bias"):
            parameter.data = 0.1 * noise
        else:
            parameter.data = 1 + 0.1 * noise if parameter.dim() == 1 else noise / parameter.shape[1] ** 0.5
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 2)
    if matrices != PARAMETERS:
        raise ValueError(f"{family}: expected {PARAMETERS} parameters, found {matrices}")
    model.to(TORCH_DTYPES[dtype]).save_pretrained(folder)


@torch.inference_mode()
def reference_logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """[tokens] to [vocab] of the last position, in f32 whatever is stored."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model(torch.from_numpy(tokens)[None]).logits[0, -1].numpy()
