"""Hugging Face transformers: a directory with config.json, weights (whole or sharded) and tokenizer files.

Names and shapes: transformers/models/gpt2/modeling_gpt2.py. Linear weights lie (in, out): its Conv1D.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zoo.containers.files import write_json
from zoo.containers.safetensors import is_safetensors, read_metadata, read_provenance, write_safetensors
from zoo.containers.state_dict import read_state_dict
from zoo.converters.shared.hf_directory import TOKENS, has_weights, read_config, write_config
from zoo.converters.shared.shards import find_weights, read_shards, split_shards
from zoo.core.tensors import LazyTensor
from zoo.formats.base import Checkpoint, Format, WriteOptions
from zoo.formats.config_map import ConfigMap, Constant, Field
from zoo.formats.rules import Copy, Derived, Rule, Table, strip_prefix
from zoo.models.gpt2.config import GPTConfig

_PREFIX = "transformer."
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def _causal_mask(config: GPTConfig) -> LazyTensor:
    t = config.context_length
    return LazyTensor((1, 1, t, t), np.dtype(np.float32), lambda: np.tri(t, dtype=np.float32)[None, None])


def _masked_bias(_: GPTConfig) -> LazyTensor:
    return LazyTensor.of(np.array(-1e4, np.float32))


def _pair(theirs: str, ours: str, how: str = "") -> tuple[Rule, ...]:
    return Rule(f"{theirs}.weight", f"{ours}.weight", how), Rule(f"{theirs}.bias", f"{ours}.bias")


class HuggingFace(Format):
    """A directory that transformers' from_pretrained reads."""

    name = "huggingface"
    summary = "Hugging Face transformers: config.json, safetensors (or pytorch_model.bin when reading), tokenizer"
    is_directory = True
    shards = True
    table = Table(
        (
            Rule("wte.weight", "tok_emb.weight"),
            Rule("wpe.weight", "pos_emb.weight"),
            *_pair("h.{i}.ln_1", "blocks.{i}.norm1"),
            *_pair("h.{i}.attn.c_attn", "blocks.{i}.attn.qkv", "i o -> o i"),
            *_pair("h.{i}.attn.c_proj", "blocks.{i}.attn.out", "i o -> o i"),
            *_pair("h.{i}.ln_2", "blocks.{i}.norm2"),
            *_pair("h.{i}.mlp.c_fc", "blocks.{i}.mlp.up", "i o -> o i"),
            *_pair("h.{i}.mlp.c_proj", "blocks.{i}.mlp.down", "i o -> o i"),
            *_pair("ln_f", "final_norm"),
            Rule("lm_head.weight", "head.weight"),
        ),
        copies=(Copy("lm_head.weight", "wte.weight", written=False),),
        derived=(
            Derived("h.{i}.attn.bias", _causal_mask, written=False),
            Derived("h.{i}.attn.masked_bias", _masked_bias, written=False),
        ),
    )
    config_map = ConfigMap(
        fields=(
            Field("vocab_size", "vocab_rows"),
            Field(TOKENS, "vocab_size"),
            Field(("n_positions", "n_ctx"), "context_length", default=1024),
            Field("n_embd", "width", default=768),
            Field("n_head", "n_heads", default=12),
            Field("n_layer", "n_layers", default=12),
            Field("n_inner", "inner_width", default=0),
            Field(("resid_pdrop", "embd_pdrop", "attn_pdrop"), "dropout", default=0.1),
            Field("layer_norm_epsilon", "norm_eps", default=1e-5),
            Field(
                "activation_function",
                "activation",
                default="gelu_new",
                values={"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"},
            ),
            Field("tie_word_embeddings", "tied", default=True),
        ),
        constants=(
            Constant("model_type", "gpt2"),
            Constant("scale_attn_weights", True),
            Constant("scale_attn_by_inverse_layer_idx", False),
            Constant("add_cross_attention", False),
        ),
        implied={"qkv_bias": True, "bias": True},
    )

    def sniff(self, path: Path) -> bool:
        """Whether it is a directory with config.json and weights, or the weights file in such a directory."""
        return has_weights(path, _WEIGHTS)

    def read(self, path: Path, config: GPTConfig | None = None) -> Checkpoint:
        """Open a directory; of several kinds of weights in it, safetensors before pytorch_model.bin."""
        directory = path if path.is_dir() else path.parent
        found, vocabulary, notes, config_file = read_config(directory, self.config_map)
        tensors, files = read_shards(find_weights(path, _WEIGHTS), read_state_dict)
        prefix, tensors = strip_prefix(tensors, (_PREFIX,))
        return Checkpoint(
            path,
            found,
            tensors,
            prefix=prefix,
            vocabulary=vocabulary,
            files=(config_file, *files),
            provenance=read_provenance(files[-1], read_metadata(files[-1])) if is_safetensors(files[-1]) else {},
            notes=tuple(notes),
        )

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write safetensors, one file or several, under the names that transformers saves, and the tokenizer."""
        path.mkdir()
        write_config(path, checkpoint, self.config_map)
        named = {name if name == "lm_head.weight" else _PREFIX + name: t for name, t in checkpoint.tensors.items()}
        shards = split_shards(named, options.max_shard_bytes)
        for file, tensors in shards.items():
            write_safetensors(path / file, tensors, {"format": "pt"}, checkpoint.provenance, options.on_bytes)
        if len(shards) > 1:
            weight_map = {name: file for file, tensors in shards.items() for name in tensors}
            total = sum(tensor.nbytes for tensor in named.values())
            write_json(path / _WEIGHTS[1], {"metadata": {"total_size": total}, "weight_map": weight_map})
