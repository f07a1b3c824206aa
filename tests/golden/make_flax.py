"""Make tests/golden/flax*: tiny GPT-2s that transformers' Flax classes saved, and their logits in float64.

Run once, with the last transformers that had Flax; the files here came from Python 3.11 with:

    pip install transformers==4.57.6 flax==0.12.8 jax==0.10.2 numpy==2.4.6
    python tests/golden/make_flax.py
"""

from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from transformers import FlaxGPT2LMHeadModel, GPT2Config

HERE = Path(__file__).parent
SIZES = {"vocab_size": 97, "n_positions": 23, "n_embd": 20, "n_head": 4, "n_layer": 2, "n_inner": 50}
IDS = [[5, 90, 33, 2, 71, 8, 96]]


def make(name, dtype, max_shard_size="10GB", **changes):
    """Save a model whose every parameter is drawn from a normal distribution."""
    model = FlaxGPT2LMHeadModel(GPT2Config(**SIZES, **changes), seed=1)
    random = np.random.default_rng(7)
    # Biases and norms start as zeros and ones, which would hide mistakes.
    shapes = {
        path: array.shape for path, array in flatten_dict(model.params).items()
    }  # keeps the order, unlike jax.tree
    model.params = unflatten_dict({path: jnp.asarray(random.normal(0, 0.5, s), dtype) for path, s in shapes.items()})
    model.save_pretrained(HERE / name, max_shard_size=max_shard_size)
    exact = FlaxGPT2LMHeadModel(model.config, dtype=jnp.float64)
    params = jax.tree_util.tree_map(lambda p: p.astype(jnp.float64), model.params)
    np.save(HERE / name / "logits.npy", np.asarray(exact(np.array(IDS), params=params).logits))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    make("flax", jnp.float32, resid_pdrop=0.25, embd_pdrop=0.25, attn_pdrop=0.25)
    make("flax-untied", jnp.bfloat16, "12KB", tie_word_embeddings=False, activation_function="gelu")
    # Arrays of more than 2**30 bytes are cut; with a smaller limit there is no need for a large file.
    flax.serialization.MAX_CHUNK_SIZE = 100
    content = flax.serialization.to_bytes({"a": {"b": np.arange(70, dtype=np.float32).reshape(7, 10)}})
    (HERE / "flax-chunked.msgpack").write_bytes(content)
