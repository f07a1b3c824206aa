"""Make tests/golden/tf-h5*: tiny GPT-2s that transformers' TensorFlow classes saved, and their logits in float64.

Run once, with the last transformers that had TensorFlow; the files here came from Python 3.11 with:

    pip install transformers==4.57.6 tensorflow-cpu==2.21.0 h5py==3.14.0 numpy==2.4.6
    pip install --no-deps tf-keras==2.21.0
    TF_USE_LEGACY_KERAS=1 python tests/golden/make_tf_h5.py
"""

from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
from transformers import GPT2Config, TFGPT2LMHeadModel

HERE = Path(__file__).parent
SIZES = {"vocab_size": 97, "n_positions": 23, "n_embd": 20, "n_head": 4, "n_layer": 2, "n_inner": 50}
IDS = [[5, 90, 33, 2, 71, 8, 96]]


def make(name, max_shard_size="10GB", **changes):
    """Save a model whose every parameter is drawn from a normal distribution."""
    config = GPT2Config(**SIZES, **changes)
    model = TFGPT2LMHeadModel(config)
    model(tf.constant(IDS))
    random = np.random.default_rng(7)
    # Biases and norms start as zeros and ones, which would hide mistakes.
    weights = [random.normal(0, 0.5, w.shape).astype(np.float32) for w in model.weights]
    model.set_weights(weights)
    model.save_pretrained(HERE / name, max_shard_size=max_shard_size, safe_serialization=False)
    tf_keras.backend.set_floatx("float64")
    exact = TFGPT2LMHeadModel(config)
    exact(tf.constant(IDS))
    exact.set_weights(weights)
    np.save(HERE / name / "logits.npy", exact(tf.constant(IDS)).logits.numpy())
    tf_keras.backend.set_floatx("float32")


if __name__ == "__main__":
    make("tf-h5", resid_pdrop=0.25, embd_pdrop=0.25, attn_pdrop=0.25)
    make("tf-h5-sharded", "12KB", activation_function="gelu", layer_norm_epsilon=1e-6)
