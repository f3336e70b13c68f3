"""A Hugging Face folder of `models.py` as a GGUF file for llama.cpp and as a CTranslate2 folder.

Written out here, because llama-cpp-python ships no converter and CTranslate2's wants a tokenizer.
"""

from pathlib import Path

import gguf
import torch
from ctranslate2.specs import common_spec, transformer_spec
from torch import Tensor

from checkpoint import Model


def write_gguf(model: Model, path: Path) -> None:
    writer = gguf.GGUFWriter(path, model.family)
    vocab_size, hidden = model.embedding.shape
    writer.add_context_length(2048)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(model.ffn_size)
    writer.add_block_count(len(model.layers))
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_rope_dimension_count(model.dim)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(vocab_size)
    writer.add_tokenizer_model("none")
    if model.family == "llama":
        writer.add_layer_norm_rms_eps(model.epsilon)
    else:
        writer.add_layer_norm_eps(model.epsilon)
    for name, tensor in gguf_tensors(model).items():
        add_tensor(writer, name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_tensors(model: Model) -> dict[str, Tensor]:
    tensors = {"token_embd.weight": model.embedding} | with_bias("output_norm", model.final_norm)
    for i, layer in enumerate(model.layers):
        parts = {"attn_output.weight": layer.out, "ffn_up.weight": layer.up, "ffn_down.weight": layer.down}
        if layer.gate:
            parts |= {"attn_q.weight": paired(layer.q, model.dim), "attn_k.weight": paired(layer.k, model.dim)}
            parts |= {"attn_v.weight": layer.v, "ffn_gate.weight": layer.gate[0]}
            parts |= with_bias("attn_norm", layer.attention_norm) | with_bias("ffn_norm", layer.mlp_norm)
        else:
            # llama.cpp's name for the norm of attention is attn_norm_2, of the MLP attn_norm.
            parts |= {"attn_qkv.weight": torch.cat([layer.q, layer.k, layer.v])}
            parts |= with_bias("attn_norm_2", layer.attention_norm) | with_bias("attn_norm", layer.mlp_norm)
        tensors |= {f"blk.{i}.{name}": tensor for name, tensor in parts.items()}
    return tensors


def with_bias(name: str, norm: list[Tensor]) -> dict[str, Tensor]:
    return dict(zip((f"{name}.weight", f"{name}.bias"), norm, strict=False))


def paired(rows: Tensor, dim: int) -> Tensor:
    """Rows for a rotary that turns neighbours, from rows for one that turns halves."""
    return rows.unflatten(0, (-1, 2, dim // 2)).transpose(1, 2).flatten(0, 2)


def add_tensor(writer: gguf.GGUFWriter, name: str, tensor: Tensor) -> None:
    if tensor.dim() == 1 or tensor.dtype == torch.float32:
        writer.add_tensor(name, tensor.float().numpy())
    else:
        raw = tensor.contiguous().view(torch.uint8).numpy()
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)


def write_ctranslate2(model: Model, folder: Path) -> None:
    is_llama = model.family == "llama"
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        len(model.layers),
        model.heads,
        activation=common_spec.Activation.SWISH if is_llama else common_spec.Activation.GELU,
        ffn_glu=is_llama,
        rms_norm=is_llama,
        parallel_residual=not is_llama,
        rotary_dim=0,
        rotary_interleave=False,
        num_heads_kv=model.kv_heads,
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = decoder.projection.weight = model.embedding
    set_norm(decoder.layer_norm, model.final_norm)
    for into, layer in zip(decoder.layer, model.layers, strict=True):
        into.self_attention.linear[0].weight = torch.cat([layer.q, layer.k, layer.v])
        into.self_attention.linear[1].weight = layer.out
        into.ffn.linear_1.weight = layer.down
        if layer.gate:
            into.ffn.linear_0.weight, into.ffn.linear_0_noact.weight = layer.gate[0], layer.up
            set_norm(into.self_attention.layer_norm, layer.attention_norm)
            set_norm(into.ffn.layer_norm, layer.mlp_norm)
        else:
            into.ffn.linear_0.weight = layer.up
            set_norm(into.input_layer_norm, layer.attention_norm)
            set_norm(into.post_attention_layer_norm, layer.mlp_norm)
    spec.config.layer_norm_epsilon = model.epsilon
    spec.config.unk_token = spec.config.bos_token = spec.config.eos_token = "0"
    spec.register_vocabulary([str(token) for token in range(len(model.embedding))])
    spec.validate()
    spec.optimize(quantization=None)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def set_norm(into: common_spec.LayerNormSpec, norm: list[Tensor]) -> None:
    into.gamma = norm[0]
    if len(norm) == 2:
        into.beta = norm[1]
