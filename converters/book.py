"""The model of "Build a Large Language Model (From Scratch)": its state dict, as .pth or .safetensors.

https://github.com/rasbt/LLMs-from-scratch, chapters 4 and 5. The file has no config: it follows from the shapes, except
for the number of heads. The model of its scripts for fast training (chapter 5) has fused projections and other names;
its tensors are read under the names of GPTModel. zoo adds its own config where the book's code does not look.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from zoo.containers.safetensors import write_safetensors
from zoo.containers.torch.file import write_torch
from zoo.converters.shared.adam_state import read_adam_state
from zoo.converters.shared.configless import open_configless, text_records, torch_records
from zoo.converters.shared.fast_book import fast_book
from zoo.converters.shared.masks import future_mask, is_future_mask
from zoo.converters.shared.state_dicts import normalise, open_state_dict, try_state_dict
from zoo.core.tensors import LazyTensor
from zoo.formats.base import Checkpoint, Format, Known, WriteOptions
from zoo.formats.config_map import ConfigMap
from zoo.formats.rules import Copy, Derived, Rule, Table, weight_and_bias

_QKV = ("W_query", "W_key", "W_value")


def _qkv(kind: str, how: str) -> Rule:
    names = tuple(f"trf_blocks.{{i}}.att.{name}.{kind}" for name in _QKV)
    return Rule(names, f"blocks.{{i}}.attn.qkv.{kind}", how)


_norm = partial(weight_and_bias, weight=".scale", bias=".shift")


class Book(Format):
    """A state dict of the book's GPTModel."""

    name = "book"
    summary = 'the book "Build a Large Language Model (From Scratch)": its GPTModel\'s state dict'
    suffixes = (".pth",)
    variants: ClassVar[dict[str, str]] = {
        "no-masks": "for the book's classes that keep no mask, such as those with a KV cache"
    }
    shares = True
    table = Table(
        (
            Rule("tok_emb.weight", "tok_emb.weight"),
            Rule("pos_emb.weight", "pos_emb.weight"),
            *_norm("trf_blocks.{i}.norm1", "blocks.{i}.norm1"),
            _qkv("weight", "n o i -> (n o) i"),
            _qkv("bias", "n o -> (n o)"),
            *weight_and_bias("trf_blocks.{i}.att.out_proj", "blocks.{i}.attn.out"),
            *_norm("trf_blocks.{i}.norm2", "blocks.{i}.norm2"),
            *weight_and_bias("trf_blocks.{i}.ff.layers.0", "blocks.{i}.mlp.up"),
            *weight_and_bias("trf_blocks.{i}.ff.layers.2", "blocks.{i}.mlp.down"),
            *_norm("final_norm", "final_norm"),
            Rule("out_head.weight", "head.weight"),
        ),
        copies=(Copy("out_head.weight", "tok_emb.weight", written=True),),
        derived=(Derived("trf_blocks.{i}.att.mask", future_mask, written=True, accepts=is_future_mask),),
    )
    config_map = ConfigMap(
        fields=(),
        implied={"inner_width": 0, "bias": True, "norm_eps": 1e-5, "activation": "gelu_tanh"},
    )

    def layout(self, variant: str) -> Table:
        """Return the table without masks for the variant no-masks."""
        return replace(self.table, derived=()) if variant else self.table

    def sniff(self, path: Path) -> bool:
        """Return whether it is a state dict with the book's names."""
        return "trf_blocks.0.att.W_query.weight" in try_state_dict(path, self.table, _open)

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open the file. Whether the head is tied is seen by comparing it with the embedding."""
        state = normalise(self.table, *_open(path), path)
        opened = open_configless(self.table, state, path, known, self.config_map.implied)
        trained = {name: tensor for name, tensor in state.tensors.items() if not name.endswith(".att.mask")}
        return replace(opened, adam=read_adam_state(state.beside, trained))

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write safetensors if the path has that suffix, else a torch file; the book's model loads both strictly."""
        if path.suffix == ".safetensors":
            metadata = {"format": "pt", **text_records(checkpoint)}
            write_safetensors(path, checkpoint.tensors, metadata, options.provenance, options.on_bytes)
        else:
            write_torch(path, dict(checkpoint.tensors), options.on_bytes, torch_records(checkpoint, options.provenance))


def _open(path: Path) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """Open a state dict; the layout of the scripts for fast training is renamed to GPTModel's."""
    tensors, beside = open_state_dict(path)
    return fast_book(tensors, path) or tensors, beside
