"""Checkpoints of Megatron-LM before Megatron core, with the names and the order of rows that core has.

https://github.com/NVIDIA/Megatron-LM (megatron/checkpointing.py: fix_query_key_value_ordering; megatron/model/ for the
names). The parts are nested: language_model, then embedding and transformer (later encoder). In which order the rows
of query_key_value lie, checkpoint_version tells; without it the version is 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.core.pattern import parse
from zoo.core.tensors import LazyTensor
from zoo.errors import FormatError
from zoo.text.gpt2 import GPT2_N_TOKENS

# By version: how rows lie, and how they do in core: head by head, query, key and value of each.
_ORDERS = {0: "(n h d)", 1: "(h d n)", 2: "(h n d)", 3: "(h n d)"}
_CORE = "(h n d)"
_NAMES = (
    (r"embedding\.(word|position)_embeddings\.weight", r"embedding.\1_embeddings.weight"),
    (r"(?:transformer|encoder)\.final_layernorm\.(\w+)", r"decoder.final_layernorm.\1"),
    (r"output_layer\.weight", r"output_layer.weight"),
    (r"layers\.(\d+)\.input_layernorm\.(\w+)", r"decoder.layers.\1.self_attention.linear_qkv.layer_norm_\2"),
    (r"layers\.(\d+)\.(?:self_)?attention\.query_key_value\.(\w+)", r"decoder.layers.\1.self_attention.linear_qkv.\2"),
    (r"layers\.(\d+)\.(?:self_)?attention\.dense\.(\w+)", r"decoder.layers.\1.self_attention.linear_proj.\2"),
    (r"layers\.(\d+)\.post_attention_layernorm\.(\w+)", r"decoder.layers.\1.mlp.linear_fc1.layer_norm_\2"),
    (r"layers\.(\d+)\.mlp\.dense_h_to_4h\.(\w+)", r"decoder.layers.\1.mlp.linear_fc1.\2"),
    (r"layers\.(\d+)\.mlp\.dense_4h_to_h\.(\w+)", r"decoder.layers.\1.mlp.linear_fc2.\2"),
)
_RULES = [(re.compile(rf"(?:(?:transformer|encoder)\.)?{theirs}"), core) for theirs, core in _NAMES]
_MASKED = re.compile(r".*\.(masked_bias|bias_mask|attention\.bias)")


def is_before_core(model: Any) -> bool:
    """Return whether the `model` of a checkpoint has the names from before Megatron core."""
    return isinstance(model, dict) and isinstance(model.get("language_model"), dict)


def to_core(tree: Mapping[str, Any], n_heads: int, path: Path) -> dict[str, LazyTensor]:
    """Return the tensors of a checkpoint with the names and the order of rows of Megatron core.

    Raises:
        FormatError: its version is not known, a tensor has no place in a GPT-2, or the heads do not fit.
    """
    version = tree.get("checkpoint_version", 0)
    order = _ORDERS.get(int(version)) if isinstance(version, int | float) and version == int(version) else None
    if order is None:
        known = ", ".join(map(str, _ORDERS))
        raise FormatError(path, f"has the checkpoint_version {version}; zoo knows the order of {known}")
    args = tree.get("args")
    if isinstance(args, Mapping) and args.get("tensor_model_parallel_size", 1) != 1:
        parts = args["tensor_model_parallel_size"]
        raise FormatError(path, f"is one of {parts} tensor-parallel parts of a model; merge them with tools/checkpoint")
    found = {}
    for name, tensor in _flat(tree["model"]["language_model"]):
        if _MASKED.fullmatch(name):
            continue
        core = next((rule.sub(core, name) for rule, core in _RULES if rule.fullmatch(name)), "")
        if not core:
            raise FormatError(path, f"has {name}, which no GPT-2 of Megatron-LM has")
        is_qkv = ".linear_qkv." in core and "layer_norm" not in core
        found[core] = _reordered(tensor, order, n_heads, path) if is_qkv else tensor
    return found


def settings_of(args: Any) -> dict[str, Any]:
    """Return the fields of the config that the arguments beside a checkpoint tell."""
    if not isinstance(args, Mapping):
        return {}
    gelu = args.get("openai_gelu") or args.get("bias_gelu_fusion")
    fields: dict[str, Any] = {"activation": "gelu_tanh" if gelu else "gelu"}
    if args.get("tokenizer_type") == "GPT2BPETokenizer":
        fields["vocab_size"] = GPT2_N_TOKENS  # the other rows are padding
    return fields


def _flat(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, LazyTensor]]:
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, LazyTensor):
            yield name, value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")


def _reordered(tensor: LazyTensor, order: str, n_heads: int, path: Path) -> LazyTensor:
    if order == _CORE:
        return tensor
    columns = " i" if len(tensor.shape) == 2 else ""
    pattern, sizes = parse(f"{order}{columns} -> {_CORE}{columns}"), {"n": 3, "h": n_heads}
    if tensor.shape[0] % (3 * n_heads):
        raise FormatError(path, f"has query_key_value with {tensor.shape[0]} rows, which {n_heads} heads do not divide")
    sizes["d"] = tensor.shape[0] // (3 * n_heads)
    return LazyTensor(tensor.shape, tensor.dtype, lambda: pattern.apply(tensor.load(), sizes))
