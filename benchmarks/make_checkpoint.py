"""Write a checkpoint as OpenAI released them, with TensorFlow itself and random values: its names, shapes and files.

    python benchmarks/make_checkpoint.py 124M models/124M

Needs tensorflow (`pip install '.[tensorflow]'`). The values are normal with a standard deviation of 0.02, drawn from
a seed, so that the same command writes the same tensors. The largest size takes 6.2 GB on the disk and as much memory.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np

from zoo.converters.openai import OpenAI
from zoo.models.gpt2.config import GPTConfig
from zoo.models.registry import get_config
from zoo.text.vocabulary import GPT2_N_TOKENS, OPENAI_NAMES, Vocabulary


def values(config: GPTConfig, seed: int) -> dict[str, np.ndarray]:
    """Draw every tensor of a checkpoint, with OpenAI's names and shapes."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, shape in OpenAI.table.shapes(config).items():
        value = rng.standard_normal(shape, dtype=np.float32)
        value *= np.float32(0.02)
        drawn[name] = value + np.float32(name.endswith("/g"))
    return drawn


def write(config: GPTConfig, directory: Path, seed: int = 0) -> None:
    """Write the directory: TensorFlow's files (with model.ckpt.meta, as OpenAI's have), hparams.json, vocabulary."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    directory.mkdir(parents=True)
    drawn = values(config, seed)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        # Fed through placeholders, because a graph with the values inside could not exceed 2 GB.
        feeds = {name: tf.compat.v1.placeholder(tf.float32, value.shape) for name, value in drawn.items()}
        variables = {name: tf.compat.v1.get_variable(name, initializer=feed) for name, feed in feeds.items()}
        for name, variable in variables.items():
            session.run(variable.initializer, {feeds[name]: drawn.pop(name)})
        saver = tf.compat.v1.train.Saver(list(variables.values()), save_relative_paths=True)
        saver.save(session, str(directory / "model.ckpt"))
    hparams = {
        "n_vocab": config.vocab_size,
        "n_ctx": config.context_length,
        "n_embd": config.width,
        "n_head": config.n_heads,
        "n_layer": config.n_layers,
    }
    (directory / "hparams.json").write_text(json.dumps(hparams, indent=2) + "\n")
    if config.vocab_size == GPT2_N_TOKENS:
        for name, content in Vocabulary.gpt2().files(OPENAI_NAMES).items():
            (directory / name).write_bytes(content)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", help="a registered model: 124M, 355M, 774M, 1558M, test-tiny")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(get_config(arguments.size), arguments.directory, arguments.seed)
    data = arguments.directory / "model.ckpt.data-00000-of-00001"
    print(f"{arguments.directory}: {data.stat().st_size:,} bytes of tensors")


if __name__ == "__main__":
    main()
