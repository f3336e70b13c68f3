"""The shape of the models that are measured. Imports nothing, so that a peer loads no library of another."""

FAMILIES = ("llama", "falcon")
DTYPES = ("f32", "bf16")
LAYERS, HIDDEN, HEADS, KV_HEADS, VOCAB_SIZE = 8, 768, 12, 4, 8192
FFN_SIZE = {"llama": 2048, "falcon": 3072}
# Of either family, norms apart: a layer, and with the embedding, which is the head as well.
LAYER_PARAMETERS = 6_291_456
PARAMETERS = LAYERS * LAYER_PARAMETERS + VOCAB_SIZE * HIDDEN
