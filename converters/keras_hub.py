"""Keras Hub: a preset directory of a GPT2Backbone, with config.json, model.weights.h5 and the tokenizer's files.

https://github.com/keras-team/keras-hub: keras_hub/src/models/gpt2 for the layers, keras_hub/src/utils/preset_utils.py
for the files. Query, key and value are separate, and kernels have an axis of heads: (C, H, D), and (H, D, C) for the
output. The paths in the weights follow from Keras' classes and attributes (keras/src/saving/saving_lib.py).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from zoo.containers.files import read_json, write_json
from zoo.containers.hdf5.reader import read_hdf5, write_hdf5
from zoo.converters.shared import keras_preset as preset
from zoo.converters.shared.shards import find_weights, read_shards
from zoo.core.paths import is_there
from zoo.core.tensors import LazyTensor, Tensors
from zoo.errors import CheckpointMismatch, CorruptFile, ZooError
from zoo.formats.base import Checkpoint, Format, Known, WriteOptions
from zoo.formats.config_map import ConfigMap, Field
from zoo.formats.rules import Rule, Table, weight_and_bias
from zoo.text.vocabulary import Vocabulary

_WEIGHTS = ("model.weights.h5", "model.weights.json")
_TOKENS = "zoo_vocab_size"  # config.json knows only the rows; in metadata.json Keras Hub only writes
_PROVENANCE = "zoo_provenance"

# Keras gives the first layer of a kind no number; in a table it has to have one.
_FIRST, _NUMBERED = "layers/transformer_decoder/", "layers/transformer_decoder_0/"
_BLOCK = "layers/transformer_decoder_{i}"
_ATTENTION = f"{_BLOCK}/_self_attention_layer"
_QKV = ("query_dense", "key_dense", "value_dense")


_pair = partial(weight_and_bias, weight="/vars/0", bias="/vars/1")


def _qkv(number: int, kind: str, how: str) -> Rule:
    names = tuple(f"{_ATTENTION}/{name}/vars/{number}" for name in _QKV)
    return Rule(names, f"blocks.{{i}}.attn.qkv.{kind}", how)


class KerasHub(Format):
    """A directory that keras_hub.models.GPT2CausalLM.from_preset reads."""

    name = "keras-hub"
    summary = "Keras Hub: GPT2Backbone preset with config.json, model.weights.h5 and tokenizer (needs h5py)"
    is_directory = True
    table = Table(
        (
            Rule("layers/reversible_embedding/vars/0", "tok_emb.weight"),
            Rule("layers/position_embedding/vars/0", "pos_emb.weight"),
            *_pair(f"{_BLOCK}/_self_attention_layer_norm", "blocks.{i}.norm1"),
            _qkv(0, "weight", "n i h d -> (n h d) i"),
            _qkv(1, "bias", "n h d -> (n h d)"),
            *_pair(f"{_ATTENTION}/output_dense", "blocks.{i}.attn.out", "h d o -> o (h d)"),
            *_pair(f"{_BLOCK}/_feedforward_layer_norm", "blocks.{i}.norm2"),
            *_pair(f"{_BLOCK}/_feedforward_intermediate_dense", "blocks.{i}.mlp.up", "i o -> o i"),
            *_pair(f"{_BLOCK}/_feedforward_output_dense", "blocks.{i}.mlp.down", "i o -> o i"),
            *_pair("layers/layer_normalization", "final_norm"),
        )
    )
    config_map = ConfigMap(
        fields=(
            Field("vocabulary_size", "vocab_rows"),
            Field(_TOKENS, "vocab_size"),
            Field("num_layers", "n_layers"),
            Field("num_heads", "n_heads"),
            Field("hidden_dim", "width"),
            Field("intermediate_dim", "inner_width"),
            Field("dropout", "dropout", default=0.1),
            Field("max_sequence_length", "context_length", default=1024),
        ),
        implied={"qkv_bias": True, "bias": True, "tied": True, "norm_eps": 1e-5, "activation": "gelu_tanh"},
    )

    def sniff(self, path: Path) -> bool:
        """Return whether it is a directory with weights and the config of a GPT2Backbone, or the weights in one."""
        if path.is_file():
            return path.name in _WEIGHTS and self.sniff(path.parent)
        if not any((path / name).is_file() for name in _WEIGHTS):
            return False
        try:
            return read_json(path / "config.json").get("class_name") == preset.BACKBONE
        except ZooError:
            return False

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open a directory, or the weights or their index in it."""
        weights = find_weights(path, _WEIGHTS)
        directory = weights.parent
        config_file = directory / "config.json"
        metadata_file = directory / "metadata.json"
        metadata = read_json(metadata_file) if is_there(metadata_file) else {}
        theirs = preset.read_config(config_file)
        theirs[_TOKENS] = metadata.get(_TOKENS, theirs.get("vocabulary_size"))
        found, notes = self.config_map.read(theirs, config_file)
        provenance = metadata.get(_PROVENANCE, {})
        if not isinstance(provenance, dict):
            raise CorruptFile(metadata_file, f"its {_PROVENANCE} is not a JSON object")
        tensors, files = read_shards(weights, read_hdf5)
        return Checkpoint(
            path,
            found,
            _numbered(weights, tensors),
            vocabulary=Vocabulary.read(directory / preset.ASSETS, directory),
            files=(config_file, *files),
            provenance=provenance,
            notes=tuple(notes),
        )

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write the directory, as save_to_preset of Keras Hub does."""
        path.mkdir()
        config = checkpoint.config
        theirs = self.config_map.write(config)
        del theirs[_TOKENS]
        preset.write_preset(path, checkpoint, theirs)
        tensors = {name.replace(_NUMBERED, _FIRST): tensor for name, tensor in checkpoint.tensors.items()}
        write_hdf5(path / _WEIGHTS[0], tensors, options.on_bytes)
        tokens = {} if config.vocab_size == config.vocab_rows else {_TOKENS: config.vocab_size}
        metadata = {"parameter_count": config.n_parameters, "tasks": ["CausalLM"], **tokens}
        write_json(path / "metadata.json", {**metadata, _PROVENANCE: options.provenance()})

    def unheld(self, checkpoint: Checkpoint) -> list[str]:
        """Return notes on the parts of the tokenizer that Keras Hub's class does not support."""
        return preset.unheld(checkpoint.vocabulary)


def _numbered(path: Path, tensors: Tensors) -> dict[str, LazyTensor]:
    """Give the first block its number, and parts of the attention the names that they have since 2024.

    Until then Keras reached them by private attributes, _query_dense and so on (keras/src/layers/attention); it still
    reads such files.
    """
    renamed: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        new = name.replace(_FIRST, _NUMBERED).replace("/_self_attention_layer/_", "/_self_attention_layer/")
        if new in renamed:
            raise CheckpointMismatch(path, [f"tensor {name} is there under two names"])
        renamed[new] = tensor
    return renamed
