"""Megatron core's GPT in one torch file. Unproven: the layout is Megatron-LM's, but no Megatron has loaded one of zoo.

https://github.com/NVIDIA/Megatron-LM (tools/checkpoint/schema_core.py for the names, those of its default
implementation, Transformer Engine; megatron/core/transformer/attention.py for the order in linear_qkv: head by head,
query, key and value of each). It is what one rank of one has as `model` in model_optim_rng.pt. Megatron-LM keeps its
config in arguments of the command line: the `args` of the file, if it has any, tell the number of heads.

Older Megatron-LM keeps the model below `language_model`, with the rows of query_key_value in an order that depends on
the checkpoint_version (none means 0); transformers' convert_megatron_gpt2_checkpoint.py knows the same four.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from zoo.containers.torch.file import is_torch_file, read_torch, write_torch
from zoo.converters.shared.configless import open_configless, torch_records
from zoo.converters.shared.older_layouts import MEGATRON_ORDERS, legacy_megatron, reorder_megatron
from zoo.converters.shared.state_dicts import find_state_dict, normalise
from zoo.errors import FormatError, ZooError
from zoo.formats.base import Checkpoint, Format, Known, WriteOptions
from zoo.formats.config_map import ConfigMap
from zoo.formats.rules import Copy, Rule, Table, weight_and_bias

_VERSION = 3.0  # of the order in linear_qkv; older ones have other orders
_LAYER, _OURS = "decoder.layers.{i}", "blocks.{i}"
_EMBEDDING, _QKV = "embedding.word_embeddings.weight", f"{_LAYER}.self_attention.linear_qkv"
_QKV_0 = f"{_QKV}.weight".replace("{i}", "0")
_KEYS = ("model", "checkpoint_version", "iteration")  # the others are not zoo's
_ROWS = 128  # Megatron-LM's default of --make-vocab-size-divisible-by


_norm = partial(weight_and_bias, weight="_weight", bias="_bias")


class Megatron(Format):
    """A checkpoint of Megatron core's GPTModel."""

    name = "megatron"
    summary = "Megatron core's GPT in one torch file; unproven: no Megatron has loaded one of zoo yet"
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
        """Whether it is a torch file with a model of Megatron's names."""
        try:
            tree = read_torch(path) if is_torch_file(path) else None
        except ZooError:
            return False
        model = tree.get("model") if isinstance(tree, dict) else None
        if not isinstance(model, dict):
            return False
        return isinstance(model.get("language_model"), dict) or {_EMBEDDING, _QKV_0} <= set(model)

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open the file; what Transformer Engine keeps beside the weights stays behind."""
        tree = read_torch(path)
        if not isinstance(tree, dict) or not isinstance(model := tree.get("model"), dict):
            raise FormatError(path, "has no model, so it is not a checkpoint of Megatron core")
        old = legacy_megatron(model, path)
        orders = {_VERSION: "h n d"} if old is None else MEGATRON_ORDERS
        version = tree.get("checkpoint_version", _VERSION if old is None else 0)
        if type(version) not in (int, float) or version not in orders:
            versions = ", ".join(map(str, orders))
            raise FormatError(path, f"has the checkpoint_version {version}; zoo knows the order of rows of {versions}")
        beside = {str(key): value for key, value in tree.items() if key not in _KEYS}
        arguments = _arguments(beside.get("args"), path)
        state = normalise(self.table, find_state_dict(model, path)[0] if old is None else old, beside, path)
        implied = {**self.config_map.implied, **arguments}
        opened = open_configless(self.table, state, path, known, implied)
        extra = [name for name in model if str(name).endswith("_extra_state")]
        note = [f"{len(extra)} entries such as {extra[0]} are not weights and are left out"] if extra else []
        tensors = reorder_megatron(opened.tensors, opened.config, int(version))
        return replace(opened, tensors=tensors, notes=(*opened.notes, *note))

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write the file, without optimizer and arguments."""
        tree = {"checkpoint_version": _VERSION, "iteration": 0, "model": dict(checkpoint.tensors)}
        write_torch(path, tree, options.on_bytes, torch_records(checkpoint, options.provenance))

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """Tell what Megatron-LM must be told, since it pads the vocabulary itself."""
        rows = checkpoint.config.vocab_rows
        hint = f"Megatron-LM wants --make-vocab-size-divisible-by 1 for {rows:,} rows"
        return [*super().notes(checkpoint), *([hint] if rows % _ROWS else [])]


def _arguments(args: Any, path: Path) -> dict[str, Any]:
    """Return what the arguments of the command line say of the activation.

    Raises:
        FormatError: The model is divided among several files.
    """
    args = args if isinstance(args, dict) else {}
    for way in ("tensor", "pipeline"):
        n = args.get(f"{way}_model_parallel_size", 1)
        if type(n) is int and n > 1:
            problem = f"is one of {n} {way}-parallel parts of a model"
            raise FormatError(path, f"{problem}; merge them with tools/checkpoint/convert.py of Megatron-LM")
    exact = args.get("bias_gelu_fusion") is False and not args.get("openai_gelu")
    return {"activation": "gelu"} if exact else {}
