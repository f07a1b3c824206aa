"""The model of "Build a Large Language Model (From Scratch)": its state dict, as .pth or .safetensors.

https://github.com/rasbt/LLMs-from-scratch, chapters 4 and 5. The file has no config: it follows from the shapes, but
for the number of heads. zoo adds its own config where the book's code does not look.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from zoo.converters._torch_file import is_torch_file, read_extra, write_torch

from zoo.config import GPTConfig
from zoo.config_map import ConfigMap
from zoo.converters._files import parse_json
from zoo.converters._safetensors import PROVENANCE, is_safetensors, read_metadata, write_safetensors
from zoo.converters._state_dict import read_state_dict
from zoo.errors import ConfigError, FormatError, ZooError
from zoo.format import Checkpoint, Format, WriteOptions
from zoo.mapping import Copy, Derived, Rule, Table, same_tensor
from zoo.tensors import LazyTensor

_CONFIG = "zoo.config"
_HEAD_SIZE = 64  # of every published GPT-2, and what the book takes over
_QKV = ("W_query", "W_key", "W_value")


def _mask(config: GPTConfig) -> LazyTensor:
    t = config.context_length
    return LazyTensor((t, t), np.dtype(np.float32), lambda: np.triu(np.ones((t, t), np.float32), k=1))


def _qkv(kind: str, how: str) -> Rule:
    names = tuple(f"trf_blocks.{{i}}.att.{name}.{kind}" for name in _QKV)
    return Rule(names, f"blocks.{{i}}.attn.qkv.{kind}", how)


def _linear(theirs: str, ours: str) -> tuple[Rule, ...]:
    return Rule(f"{theirs}.weight", f"{ours}.weight"), Rule(f"{theirs}.bias", f"{ours}.bias")


def _norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    return Rule(f"{theirs}.scale", f"{ours}.weight"), Rule(f"{theirs}.shift", f"{ours}.bias")


class Book(Format):
    """A state dict of the book's GPTModel."""

    name = "book"
    summary = 'the book "Build a Large Language Model (From Scratch)": its GPTModel\'s state dict'
    suffixes = (".pth",)
    table = Table(
        (
            Rule("tok_emb.weight", "tok_emb.weight"),
            Rule("pos_emb.weight", "pos_emb.weight"),
            *_norm("trf_blocks.{i}.norm1", "blocks.{i}.norm1"),
            _qkv("weight", "n o i -> (n o) i"),
            _qkv("bias", "n o -> (n o)"),
            *_linear("trf_blocks.{i}.att.out_proj", "blocks.{i}.attn.out"),
            *_norm("trf_blocks.{i}.norm2", "blocks.{i}.norm2"),
            *_linear("trf_blocks.{i}.ff.layers.0", "blocks.{i}.mlp.up"),
            *_linear("trf_blocks.{i}.ff.layers.2", "blocks.{i}.mlp.down"),
            *_norm("final_norm", "final_norm"),
            Rule("out_head.weight", "head.weight"),
        ),
        copies=(Copy("out_head.weight", "tok_emb.weight", written=True),),
        derived=(Derived("trf_blocks.{i}.att.mask", _mask, written=True),),
    )
    config_map = ConfigMap(
        fields=(),
        implied={"inner_width": 0, "bias": True, "norm_eps": 1e-5, "activation": "gelu_tanh"},
    )

    def sniff(self, path: Path) -> bool:
        """Whether it is a state dict with the book's names."""
        try:
            if not (is_safetensors(path) or is_torch_file(path)):
                return False
            return {"trf_blocks.0.att.W_query.weight", "out_head.weight"} <= set(read_state_dict(path))
        except ZooError:
            return False

    def read(self, path: Path, config: GPTConfig | None = None) -> Checkpoint:
        """Open the file. Whether the head is tied is seen by comparing it with the embedding."""
        tensors = read_state_dict(path)
        own_config, provenance = _read_extra(path)
        notes = []
        if own_config:
            found = GPTConfig.from_dict(own_config)
        else:
            found = _config_of(tensors, config, path)
            if config is None:
                notes.append(f"the file does not say how many heads there are: {found.n_heads} = width / 64 is assumed")
        return Checkpoint(
            path,
            found,
            tensors,
            files=(path,),
            provenance=provenance,
            notes=tuple(notes),
        )

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write a safetensors file if the path ends so, a torch one otherwise; the book's model loads both strictly."""
        config = json.dumps(checkpoint.config.to_dict())
        if path.suffix == ".safetensors":
            metadata = {"format": "pt", _CONFIG: config}
            write_safetensors(path, checkpoint.tensors, metadata, checkpoint.provenance, options.on_bytes)
        else:
            extra = {
                _CONFIG: config.encode(),
                PROVENANCE: lambda: json.dumps(dict(checkpoint.provenance), sort_keys=True).encode(),
            }
            write_torch(path, dict(checkpoint.tensors), options.on_bytes, extra)


def _read_extra(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the config and the provenance that zoo added when it wrote the file, {} for a file of the book's."""
    if is_safetensors(path):
        metadata = read_metadata(path)
        config, provenance = (metadata.get(key, "{}").encode() for key in (_CONFIG, PROVENANCE))
    else:
        config, provenance = (read_extra(path, key) or b"{}" for key in (_CONFIG, PROVENANCE))
    return parse_json(config, path, "its zoo.config"), parse_json(provenance, path, "its provenance")


def _config_of(tensors: dict[str, LazyTensor], known: GPTConfig | None, path: Path) -> GPTConfig:
    """Work the config out from the shapes; heads, dropout and padding come from what the user said, if anything."""
    try:
        rows, width = tensors["tok_emb.weight"].shape
        if known is None and width % _HEAD_SIZE:
            raise ConfigError("the number of heads cannot be told from the shapes; say it with --size")
        return GPTConfig(
            vocab_size=rows,
            context_length=tensors["pos_emb.weight"].shape[0],
            width=width,
            n_heads=known.n_heads if known else width // _HEAD_SIZE,
            n_layers=sum(name.endswith(".norm1.scale") for name in tensors),
            dropout=known.dropout if known else GPTConfig.dropout,
            qkv_bias="trf_blocks.0.att.W_query.bias" in tensors,
            tied=same_tensor(tensors["out_head.weight"], tensors["tok_emb.weight"]),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise FormatError(path, f"is no whole state dict of the book's GPTModel ({error})") from error
