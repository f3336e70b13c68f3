"""llama.cpp as a peer, through the C interface that llama-cpp-python binds."""

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np


@llama_cpp.llama_log_callback
def silent(_level: int, _text: bytes, _user: ctypes.c_void_p) -> None:
    pass


class LlamaCpp:
    """One sequence of the cache per row of the batch.

    The cache is f16, as usual: one of f32 is slower, and under flash attention gives the same logits.
    """

    def __init__(self, file: Path, batch: int, context: int, threads: int):
        llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = batch * context, batch, batch == 1
        params.n_batch = batch * context
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"llama.cpp makes no context for {file}")
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(batch * context, 0, 1)
        self.length = 0

    def prefill(self, prompts: np.ndarray) -> np.ndarray:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)
        self.length = 0
        return self.forward(prompts)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        return self.forward(tokens[:, None])

    def forward(self, tokens: np.ndarray) -> np.ndarray:
        """tokens [batch, new] to logits [batch, vocab] of the last position."""
        rows, new = tokens.shape
        filled, last = self.batch, []
        filled.n_tokens = tokens.size
        for at, (row, column) in enumerate(np.ndindex(rows, new)):
            filled.token[at] = int(tokens[row, column])
            filled.pos[at] = self.length + column
            filled.n_seq_id[at], filled.seq_id[at][0] = 1, row
            filled.logits[at] = column == new - 1
            if column == new - 1:
                last.append(at)
        code = llama_cpp.llama_decode(self.context, filled)
        if code != 0:
            raise RuntimeError(f"llama_decode: expected 0, found {code}")
        self.length += new
        pointers = [llama_cpp.llama_get_logits_ith(self.context, at) for at in last]
        return np.stack([np.ctypeslib.as_array(pointer, (self.vocab_size,)) for pointer in pointers])
