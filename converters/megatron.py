"""Megatron core's GPT in one torch file. Unproven: the layout is Megatron-LM's, but no Megatron has loaded one of zoo.

https://github.com/NVIDIA/Megatron-LM (tools/checkpoint/schema_core.py for the names, those of its default
implementation, Transformer Engine; megatron/core/transformer/attention.py for the order in linear_qkv: head by head,
query, key and value of each). The file is the `model` of a single rank in model_optim_rng.pt. Megatron-LM keeps its
config in arguments of the command line, which its older checkpoints hold as `args`; the rest follows from the shapes,
unless zoo recorded it. Checkpoints from before Megatron core are only read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from zoo.containers.torch.file import is_torch_file, read_torch, write_torch
from zoo.converters.shared.configless import open_configless, torch_records
from zoo.converters.shared.megatron_lm import is_before_core, settings_of, to_core
from zoo.converters.shared.state_dicts import fields_beside, find_state_dict, normalise
from zoo.errors import FormatError, ZooError
from zoo.formats.base import Checkpoint, Format, Known, WriteOptions
from zoo.formats.config_map import ConfigMap
from zoo.formats.rules import Copy, Rule, Table, weight_and_bias
from zoo.formats.shapes import sizes_of

_VERSION = 3.0  # of the order in linear_qkv; older ones have other orders
_LAYER, _OURS = "decoder.layers.{i}", "blocks.{i}"
_EMBEDDING, _QKV = "embedding.word_embeddings.weight", f"{_LAYER}.self_attention.linear_qkv"
_ROWS = 128  # Megatron-LM's default of --make-vocab-size-divisible-by


_norm = partial(weight_and_bias, weight="_weight", bias="_bias")


class Megatron(Format):
    """A checkpoint of Megatron core's GPTModel."""

    name = "megatron"
    summary = "Megatron core's GPT in one torch file; unproven: no Megatron has loaded one of zoo yet"
    shares = True
    table = Table(
        (
            Rule(_EMBEDDING, "tok_emb.weight"),
            Rule("embedding.position_embeddings.weight", "pos_emb.weight"),
            *_norm(f"{_QKV}.layer_norm", f"{_OURS}.norm1"),
            Rule(f"{_QKV}.weight", f"{_OURS}.attn.qkv.weight", "(h n d) i -> (n h d) i"),
            Rule(f"{_QKV}.bias", f"{_OURS}.attn.qkv.bias", "(h n d) -> (n h d)"),
            *weight_and_bias(f"{_LAYER}.self_attention.linear_proj", f"{_OURS}.attn.out"),
            *_norm(f"{_LAYER}.mlp.linear_fc1.layer_norm", f"{_OURS}.norm2"),
            *weight_and_bias(f"{_LAYER}.mlp.linear_fc1", f"{_OURS}.mlp.up"),
            *weight_and_bias(f"{_LAYER}.mlp.linear_fc2", f"{_OURS}.mlp.down"),
            *weight_and_bias("decoder.final_layernorm", "final_norm"),
            Rule("output_layer.weight", "head.weight"),
        ),
        copies=(Copy("output_layer.weight", _EMBEDDING, written=False),),
    )
    config_map = ConfigMap(
        fields=(), implied={"qkv_bias": True, "bias": True, "norm_eps": 1e-5, "activation": "gelu_tanh"}
    )

    def sniff(self, path: Path) -> bool:
        """Return whether it is a torch file with a model of Megatron's names."""
        try:
            tree = read_torch(path) if is_torch_file(path) else None
        except ZooError:
            return False
        model = tree.get("model") if isinstance(tree, dict) else None
        return is_before_core(model) or (
            isinstance(model, dict) and {_EMBEDDING, f"{_QKV}.weight".replace("{i}", "0")} <= set(model)
        )

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open the file without the extra state of Transformer Engine."""
        tree = read_torch(path)
        if not isinstance(tree, dict) or not isinstance(model := tree.get("model"), dict):
            raise FormatError(path, "has no model, so it is not a checkpoint of Megatron core")
        if is_before_core(model):
            return self._read_old(path, tree, known or {})
        if (version := tree.get("checkpoint_version", _VERSION)) != _VERSION:
            raise FormatError(path, f"has the checkpoint_version {version}; zoo knows the order of {_VERSION} only")
        state = [name for name in model if str(name).endswith("_extra_state")]
        state_dict = normalise(self.table, *find_state_dict(model, path), path)
        opened = open_configless(self.table, state_dict, path, known, self.config_map.implied)
        if not state:
            return opened
        note = f"{len(state)} entries such as {state[0]} are not weights and are left out"
        return replace(opened, notes=(*opened.notes, note))

    def _read_old(self, path: Path, tree: dict[str, Any], known: Mapping[str, Any]) -> Checkpoint:
        """Open a checkpoint from before Megatron core, whose order of rows depends on the number of heads."""
        beside = {key: value for key, value in tree.items() if key != "model"}
        fields = {**settings_of(beside.get("args")), **known}
        sizes = sizes_of(self.table, to_core({**tree, "checkpoint_version": _VERSION}, 1, path))
        fields = {**fields_beside(beside, sizes), **fields}
        if "n_heads" not in fields:
            raise FormatError(path, """has no args with the number of heads; say it with --size '{"n_heads": N}'""")
        state = normalise(self.table, to_core(tree, fields["n_heads"], path), beside, path)
        implied = {name: value for name, value in self.config_map.implied.items() if name not in fields}
        return open_configless(self.table, state, path, fields, implied)

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write the file, without optimizer and arguments."""
        tree = {"checkpoint_version": _VERSION, "iteration": 0, "model": dict(checkpoint.tensors)}
        write_torch(path, tree, options.on_bytes, torch_records(checkpoint, options.provenance))

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """Return a note on the option of Megatron-LM that avoids its own padding of the vocabulary."""
        rows = checkpoint.config.vocab_rows
        hint = f"Megatron-LM wants --make-vocab-size-divisible-by 1 for {rows:,} rows"
        return [*super().notes(checkpoint), *([hint] if rows % _ROWS else [])]
