"""Hugging Face transformers with TensorFlow: a directory with config.json and tf_model.h5; read only.

Names and shapes: transformers/models/gpt2/modeling_tf_gpt2.py, up to release 4.57; release 5 dropped TensorFlow. Linear
layers are its TFConv1D (transformers/modeling_tf_utils.py): weights lie (in, out), biases are rows, (1, out).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from zoo.containers.hdf5.reader import read_hdf5
from zoo.converters.huggingface import HuggingFace
from zoo.converters.shared.hf_directory import has_weights, read_config, read_vocabulary
from zoo.converters.shared.shards import find_weights, read_shards
from zoo.core.tensors import Tensors
from zoo.formats.base import Checkpoint, Format, Known
from zoo.formats.mapping import strip_prefix
from zoo.formats.rules import Rule, Table, weight_and_bias

_WEIGHTS = ("tf_model.h5", "tf_model.h5.index.json")
_EMBEDDING = "wte/embeddings:0"
_FORMER_EMBEDDING = "wte/weight:0"  # until release 4.29 (transformers' pull request 23436)


_linear = partial(weight_and_bias, how="i o -> o i", bias_how="1 o -> o", weight="/weight:0", bias="/bias:0")
_norm = partial(weight_and_bias, weight="/gamma:0", bias="/beta:0")


class TfH5(Format):
    """A directory that TFGPT2LMHeadModel.from_pretrained reads."""

    name = "tf-h5"
    summary = "Hugging Face transformers 4 with TensorFlow: config.json and tf_model.h5 (reading; needs h5py)"
    is_directory = True
    writes = False
    table = Table(
        (
            Rule(_EMBEDDING, "tok_emb.weight"),
            Rule("wpe/embeddings:0", "pos_emb.weight"),
            *_norm("h_._{i}/ln_1", "blocks.{i}.norm1"),
            *_linear("h_._{i}/attn/c_attn", "blocks.{i}.attn.qkv"),
            *_linear("h_._{i}/attn/c_proj", "blocks.{i}.attn.out"),
            *_norm("h_._{i}/ln_2", "blocks.{i}.norm2"),
            *_linear("h_._{i}/mlp/c_fc", "blocks.{i}.mlp.up"),
            *_linear("h_._{i}/mlp/c_proj", "blocks.{i}.mlp.down"),
            *_norm("ln_f", "final_norm"),
            # TensorFlow's GPT-2 has no head of its own, so that an untied config is refused by this name.
            Rule("lm_head/kernel:0", "head.weight", "i o -> o i"),
        )
    )
    config_map = HuggingFace.config_map

    def sniff(self, path: Path) -> bool:
        """Whether it is a directory with config.json and weights of TensorFlow and of nothing else, or such weights."""
        return has_weights(path, _WEIGHTS) and (path.is_file() or not HuggingFace().sniff(path))

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open a directory, which may have other weights too, or its tf_model.h5 or index."""
        weights = find_weights(path, _WEIGHTS)
        directory = weights.parent
        vocabulary = read_vocabulary(directory)
        found, notes, config_file = read_config(directory, self.config_map, vocabulary)
        tensors, files = read_shards(weights, read_hdf5)
        prefix, tensors = strip_prefix(tensors, (_prefix(tensors),))
        if _EMBEDDING not in tensors:
            tensors = {_EMBEDDING if name == _FORMER_EMBEDDING else name: t for name, t in tensors.items()}
        return Checkpoint(
            path,
            found,
            tensors,
            prefix=prefix,
            vocabulary=vocabulary,
            files=(config_file, *files),
            notes=tuple(notes),
        )


def _prefix(tensors: Tensors) -> str:
    """Return the common prefix of all names: the names of layer and model, such as transformer/tfgpt2lm_head_model/."""
    for name in tensors:
        for end in (_EMBEDDING, _FORMER_EMBEDDING):
            if name.endswith("/" + end):
                return name.removesuffix(end)
    return ""
