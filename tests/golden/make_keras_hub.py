"""Make tests/golden/keras-hub: a tiny GPT-2 that Keras Hub saved as a preset, and its logits in float32.

The files here came from Python 3.11 with:

    pip install keras-hub==0.32.0 keras==3.15.1 torch==2.13.0 h5py==3.14.0 numpy==2.4.6
    KERAS_BACKEND=torch python tests/golden/make_keras_hub.py
"""

from pathlib import Path

import keras
import keras_hub
import numpy as np

OUT = Path(__file__).parent / "keras-hub"
SIZES = {"vocabulary_size": 97, "num_layers": 2, "num_heads": 4, "hidden_dim": 20, "intermediate_dim": 50}
IDS = np.array([[5, 90, 33, 2, 71, 8, 96]])
MERGES = ["Ġ q", "u i", "c k", "ui ck", "Ġq uick", "Ġ f", "o x", "Ġf ox"]
WORDS = ["<|endoftext|>", *"Ġquickfoxa", *(merge.replace(" ", "") for merge in MERGES)]


if __name__ == "__main__":
    backbone = keras_hub.models.GPT2Backbone(**SIZES, max_sequence_length=23, dropout=0.25)
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(WORDS))}
    tokenizer = keras_hub.models.GPT2Tokenizer(vocabulary=vocabulary, merges=MERGES)
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=23)
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=preprocessor)
    random = np.random.default_rng(7)
    # Biases and norms start as zeros and ones, which would hide mistakes.
    model.set_weights([random.normal(0, 0.5, w.shape) for w in model.weights])
    model.save_to_preset(OUT)
    logits = model({"token_ids": IDS, "padding_mask": np.ones_like(IDS)})
    np.save(OUT / "logits.npy", keras.ops.convert_to_numpy(logits))
