"""Hugging Face transformers: a directory with config.json, weights (one file or sharded) and tokenizer files.

Names and shapes: transformers/models/gpt2/modeling_gpt2.py. Linear weights lie (in, out): its Conv1D.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from zoo.containers.files import write_json
from zoo.containers.safetensors import is_safetensors, read_metadata, read_provenance, write_safetensors
from zoo.converters.shared.configless import config_from_shapes
from zoo.converters.shared.hf_config import HF_CONFIG, HF_CONFIG_FOLDED, fold_scales
from zoo.converters.shared.hf_directory import has_weights, read_config, read_vocabulary, write_config
from zoo.converters.shared.masks import causal_mask, is_causal_mask, is_masked_bias
from zoo.converters.shared.shards import find_weights, read_shards, split_shards
from zoo.converters.shared.state_dicts import normalise, open_state_dict, try_state_dict
from zoo.core.paths import is_there
from zoo.core.tensors import LazyTensor
from zoo.formats.base import Checkpoint, Format, Known, WriteOptions
from zoo.formats.mapping import same_tensor
from zoo.formats.rules import Copy, Derived, Rule, Table, weight_and_bias
from zoo.models.gpt2.config import GPTConfig

_PREFIX = "transformer."
_EMBEDDING, _HEAD = "wte.weight", "lm_head.weight"
_NO_CONFIG = "config.json is missing; the sizes are those of the tensors, the rest is GPT-2's"
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def _masked_bias(_: GPTConfig) -> LazyTensor:
    return LazyTensor.of(np.array(-1e4, np.float32))


class HuggingFace(Format):
    """A directory that transformers' from_pretrained reads."""

    name = "huggingface"
    summary = "Hugging Face transformers: config.json, safetensors (or pytorch_model.bin when reading), tokenizer"
    is_directory = True
    shards = True
    variants: ClassVar[dict[str, str]] = {
        "no-prefix": "names without transformer., as OpenAI's repositories on the Hub have them"
    }
    table = Table(
        (
            Rule("wte.weight", "tok_emb.weight"),
            Rule("wpe.weight", "pos_emb.weight"),
            *weight_and_bias("h.{i}.ln_1", "blocks.{i}.norm1"),
            *weight_and_bias("h.{i}.attn.c_attn", "blocks.{i}.attn.qkv", "i o -> o i"),
            *weight_and_bias("h.{i}.attn.c_proj", "blocks.{i}.attn.out", "i o -> o i"),
            *weight_and_bias("h.{i}.ln_2", "blocks.{i}.norm2"),
            *weight_and_bias("h.{i}.mlp.c_fc", "blocks.{i}.mlp.up", "i o -> o i"),
            *weight_and_bias("h.{i}.mlp.c_proj", "blocks.{i}.mlp.down", "i o -> o i"),
            *weight_and_bias("ln_f", "final_norm"),
            Rule("lm_head.weight", "head.weight"),
        ),
        copies=(Copy("lm_head.weight", "wte.weight", written=False),),
        derived=(
            Derived("h.{i}.attn.bias", causal_mask, written=False, accepts=is_causal_mask),
            Derived("h.{i}.attn.masked_bias", _masked_bias, written=False, accepts=is_masked_bias),
        ),
    )
    config_map = HF_CONFIG

    def sniff(self, path: Path) -> bool:
        """Whether it is a directory with config.json and weights, or weights of GPT-2 in transformers' layout."""
        if has_weights(path, _WEIGHTS):
            return True
        files = [path / name for name in _WEIGHTS] if path.is_dir() else [path]
        tensors = next((try_state_dict(file, self.table) for file in files if file.is_file()), {})
        qkv = tensors.get("h.0.attn.c_attn.weight")
        return qkv is not None and len(qkv.shape) == 2 and qkv.shape[1] == 3 * qkv.shape[0]

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open a directory; safetensors are preferred to pytorch_model.bin."""
        weights = find_weights(path, _WEIGHTS)
        tensors, files = read_shards(weights, lambda file: open_state_dict(file)[0])
        state = normalise(self.table, tensors, {}, path)
        vocabulary = read_vocabulary(weights.parent)
        tensors, folded = state.tensors, list[str]()
        if is_there(weights.with_name("config.json")):
            found, notes, config_file = read_config(weights.parent, HF_CONFIG_FOLDED, vocabulary)
            tensors, folded = fold_scales(config_file, tensors, found)
            files = [config_file, *files]
        else:
            found, notes = config_from_shapes(self.table, tensors, path, known, self.config_map.implied)
            notes.append(_NO_CONFIG)
        if found.tied and _HEAD in tensors and not same_tensor(tensors[_HEAD], tensors[_EMBEDDING]):
            found = found.replace(tied=False)
            notes.append(f"{_HEAD} differs from the embedding, so it is a head of its own, whatever config.json says")
        return Checkpoint(
            path,
            found,
            tensors,
            prefix=state.prefix,
            vocabulary=vocabulary,
            files=tuple(files),
            provenance=read_provenance(files[-1], read_metadata(files[-1])) if is_safetensors(files[-1]) else {},
            notes=(*notes, *folded, *state.notes),
            exact=not folded,
            left_behind=state.left_behind,
        )

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write safetensors, one file or several, under the names that transformers saves, and the tokenizer."""
        path.mkdir()
        write_config(path, checkpoint, self.config_map)
        prefix = "" if options.variant else _PREFIX
        named = {name if name == _HEAD else prefix + name: tensor for name, tensor in checkpoint.tensors.items()}
        shards = split_shards(named, options.max_shard_bytes)
        for file, tensors in shards.items():
            write_safetensors(path / file, tensors, {"format": "pt"}, options.provenance, options.on_bytes)
        if len(shards) > 1:
            weight_map = {name: file for file, tensors in shards.items() for name in tensors}
            total = sum(tensor.nbytes for tensor in named.values())
            write_json(path / _WEIGHTS[1], {"metadata": {"total_size": total}, "weight_map": weight_map})
