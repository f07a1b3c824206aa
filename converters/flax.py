"""Hugging Face transformers with Flax: a directory with config.json, flax_model.msgpack and tokenizer files.

Names and shapes: transformers/models/gpt2/modeling_flax_gpt2.py, up to release 4.57; release 5 dropped Flax. Its
FlaxConv1D keeps its kernel (out, in), unlike every other kernel of Flax, such as that of the head.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from zoo.containers.files import read_json, write_json
from zoo.containers.flax_params import read_flax, write_flax
from zoo.converters.huggingface import HuggingFace
from zoo.converters.shared.hf_directory import has_weights, read_config, read_vocabulary, write_config
from zoo.converters.shared.shards import find_weights, read_shards
from zoo.core.paths import is_there
from zoo.formats.base import Checkpoint, Format, Known, WriteOptions
from zoo.formats.mapping import strip_prefix
from zoo.formats.rules import Rule, Table, weight_and_bias

PROVENANCE_FILE = "zoo_provenance.json"
_PREFIX = "transformer/"
_HEAD = "lm_head/kernel"
_WEIGHTS = ("flax_model.msgpack", "flax_model.msgpack.index.json")


_linear = partial(weight_and_bias, weight="/kernel", bias="/bias")
_norm = partial(weight_and_bias, weight="/scale", bias="/bias")


class Flax(Format):
    """A directory that FlaxGPT2LMHeadModel.from_pretrained reads."""

    name = "flax"
    summary = "Hugging Face transformers 4 with Flax: config.json, flax_model.msgpack, tokenizer"
    is_directory = True
    table = Table(
        (
            Rule("wte/embedding", "tok_emb.weight"),
            Rule("wpe/embedding", "pos_emb.weight"),
            *_norm("h/{i}/ln_1", "blocks.{i}.norm1"),
            *_linear("h/{i}/attn/c_attn", "blocks.{i}.attn.qkv"),
            *_linear("h/{i}/attn/c_proj", "blocks.{i}.attn.out"),
            *_norm("h/{i}/ln_2", "blocks.{i}.norm2"),
            *_linear("h/{i}/mlp/c_fc", "blocks.{i}.mlp.up"),
            *_linear("h/{i}/mlp/c_proj", "blocks.{i}.mlp.down"),
            *_norm("ln_f", "final_norm"),
            Rule(_HEAD, "head.weight", "i o -> o i"),
        )
    )
    config_map = HuggingFace.config_map

    def sniff(self, path: Path) -> bool:
        """Whether it is a directory with config.json and weights of Flax and of nothing else, or such weights."""
        return has_weights(path, _WEIGHTS) and (path.is_file() or not HuggingFace().sniff(path))

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open a directory, which may have other weights too, or its flax_model.msgpack or index."""
        weights = find_weights(path, _WEIGHTS)
        directory = weights.parent
        vocabulary = read_vocabulary(directory)
        found, notes, config_file = read_config(directory, self.config_map, vocabulary)
        tensors, files = read_shards(weights, read_flax)
        prefix, tensors = strip_prefix(tensors, (_PREFIX,))
        provenance = directory / PROVENANCE_FILE
        return Checkpoint(
            path,
            found,
            tensors,
            prefix=prefix,
            vocabulary=vocabulary,
            files=(config_file, *files),
            provenance=read_json(provenance) if is_there(provenance) else {},
            notes=tuple(notes),
        )

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write the directory; the weights are byte for byte what save_pretrained of transformers 4 writes."""
        path.mkdir()
        write_config(path, checkpoint, self.config_map)
        named = {name if name == _HEAD else _PREFIX + name: tensor for name, tensor in checkpoint.tensors.items()}
        write_flax(path / _WEIGHTS[0], named, options.on_bytes)
        write_json(path / PROVENANCE_FILE, options.provenance())
