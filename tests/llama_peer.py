"""llama.cpp as the tests use it, through PyPI's cyllama."""

import numpy as np
import pytest


def load(path, context_length):
    """Open a file in llama.cpp: (model, context), both in float32 wherever it can compute so."""
    llama = pytest.importorskip("cyllama.llama.llama_cpp")
    llama.disable_logging()

    class Model(llama.LlamaModel):
        # Its LlamaContext asks for this attribute, and it is not there (cyllama 0.2.18).
        n_vocab = property(lambda self: self.get_vocab().n_vocab)

    model = Model(str(path), llama.LlamaModelParams())
    params = llama.LlamaContextParams()
    params.n_ctx = params.n_batch = params.n_ubatch = context_length
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = 0  # the cache in float32, not the usual float16
    params.flash_attn_type = 0
    return model, llama.LlamaContext(model, params)


def logits(context, ids, start=0):
    """The logits after each of some ids, the first of which stands at position `start`: (T, V)."""
    llama = pytest.importorskip("cyllama.llama.llama_cpp")
    batch = llama.LlamaBatch(n_tokens=len(ids), embd=0, n_seq_max=1)
    for i, token in enumerate(ids):
        batch.add(token, start + i, [0], True)
    context.decode(batch)
    return np.array([context.get_logits_ith(i) for i in range(len(ids))], np.float32)


def quantise(source, out, file_type, embedding_type=None):
    """What llama-quantize does; types are numbers of llama.h and ggml.h."""
    llama = pytest.importorskip("cyllama.llama.llama_cpp")
    params = llama.LlamaModelQuantizeParams()
    params.ftype, params.nthread = file_type, 1
    if embedding_type is not None:
        params.token_embedding_type = params.output_tensor_type = embedding_type
    llama.model_quantize(str(source), str(out), params)
