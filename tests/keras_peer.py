"""Keras Hub at work, in a process of its own: which backend Keras has is settled when it is imported.

    python keras_peer.py DIRECTORY

Loads each preset DIRECTORY/ours-*, and saves its logits beside it, and the preset again as again-*. Makes presets
DIRECTORY/theirs-* and saves their logits.
"""

import os
import sys
from pathlib import Path

os.environ |= {"KERAS_BACKEND": "torch", "TF_CPP_MIN_LOG_LEVEL": "3"}

import keras
import keras_hub
import numpy as np

IDS = np.array([[5, 90, 33, 2, 71, 8, 96]])
TEXT = "Every effort moves you — naïvely, 12345 times!\n\n  <|endoftext|>\tÀ bientôt 🙂"
SIZES = {"vocabulary_size": 97, "num_layers": 3, "num_heads": 5, "hidden_dim": 30, "intermediate_dim": 70}


def save_logits(model, path):
    """Save the logits of IDS, and the ids of TEXT if there is a tokenizer."""
    logits = model({"token_ids": IDS, "padding_mask": np.ones_like(IDS)})
    np.save(path.with_name(path.name + ".npy"), keras.ops.convert_to_numpy(logits))
    if model.preprocessor:
        ids = np.asarray(model.preprocessor.tokenizer(TEXT))
        np.save(path.with_name(path.name + ".ids.npy"), ids)


def load(path):
    """Load one of zoo's presets, as a whole and as a bare backbone, and save it again."""
    model = keras_hub.models.GPT2CausalLM.from_preset(str(path))
    bare = keras_hub.models.GPT2Backbone.from_preset(str(path))
    for a, b in zip(model.backbone.weights, bare.weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))
    save_logits(model, path)
    model.save_to_preset(str(path.with_name(path.name.replace("ours", "again"))))


def make(path, dtype, **options):
    """Save a preset of Keras Hub's own, with every parameter drawn from a normal distribution."""
    backbone = keras_hub.models.GPT2Backbone(**SIZES, max_sequence_length=23, dropout=0.25, dtype=dtype)
    model = keras_hub.models.GPT2CausalLM(backbone=backbone)
    random = np.random.default_rng(7)
    model.set_weights([random.normal(0, 0.5, w.shape) for w in model.weights])
    model.save_to_preset(str(path), **options)
    save_logits(keras_hub.models.GPT2CausalLM.from_preset(str(path), preprocessor=None), path)


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    for preset in sorted(directory.glob("ours-*")):
        load(preset)
    for dtype in ("float32", "float16", "bfloat16"):
        make(directory / f"theirs-{dtype}", dtype)
    make(directory / "theirs-sharded", "float32", max_shard_size=40_000 / 2**30)
