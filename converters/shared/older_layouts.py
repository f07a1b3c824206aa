"""Other layouts of the same projects, read under the names of the layout that a format's table has.

Old: minGPT of 2020 (mingpt/model.py until July 2022), Megatron-LM before Megatron core (megatron/model/
language_model.py). Later: the book's scripts for fast training (ch05/10_llm-training-speed).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo.core.pattern import parse
from zoo.core.tensors import LazyTensor, Tensors
from zoo.errors import CheckpointMismatch
from zoo.formats.rules import pattern_sizes
from zoo.models.gpt2.config import GPTConfig

_START = r"(?P<start>^|.*?\.)"

_MINGPT_2020 = {
    r"tok_emb\.weight": "transformer.wte.weight",
    r"pos_emb": "transformer.wpe.weight",
    r"blocks\.(\d+)\.ln([12])\.(\w+)": r"transformer.h.\2.ln_\3.\4",
    r"blocks\.(\d+)\.attn\.(query|key|value)\.(\w+)": r"transformer.h.\2.attn.\3.\4",
    r"blocks\.(\d+)\.attn\.proj\.(\w+)": r"transformer.h.\2.attn.c_proj.\3",
    r"blocks\.(\d+)\.attn\.mask": r"transformer.h.\2.attn.bias",
    r"blocks\.(\d+)\.mlp\.0\.(\w+)": r"transformer.h.\2.mlp.c_fc.\3",
    r"blocks\.(\d+)\.mlp\.2\.(\w+)": r"transformer.h.\2.mlp.c_proj.\3",
    r"ln_f\.(\w+)": r"transformer.ln_f.\2",
    r"head\.weight": "lm_head.weight",
}

_FAST_BOOK = {
    r"trf_blocks\.(\d+)\.att\.proj\.(\w+)": r"trf_blocks.\2.att.out_proj.\3",
    r"trf_blocks\.(\d+)\.norm([12])\.weight": r"trf_blocks.\2.norm\3.scale",
    r"trf_blocks\.(\d+)\.norm([12])\.bias": r"trf_blocks.\2.norm\3.shift",
    r"final_norm\.weight": "final_norm.scale",
    r"final_norm\.bias": "final_norm.shift",
}

_LAYER = r"language_model\.(?:encoder|transformer)\.layers\.(\d+)\."
_LEGACY_MEGATRON = {
    r"language_model\.embedding\.(\w+)\.weight": r"embedding.\2.weight",
    _LAYER + r"input_layernorm\.(\w+)": r"decoder.layers.\2.self_attention.linear_qkv.layer_norm_\3",
    _LAYER + r"(?:self_)?attention\.query_key_value\.(\w+)": r"decoder.layers.\2.self_attention.linear_qkv.\3",
    _LAYER + r"(?:self_)?attention\.dense\.(\w+)": r"decoder.layers.\2.self_attention.linear_proj.\3",
    _LAYER + r"post_attention_layernorm\.(\w+)": r"decoder.layers.\2.mlp.linear_fc1.layer_norm_\3",
    _LAYER + r"mlp\.dense_h_to_4h\.(\w+)": r"decoder.layers.\2.mlp.linear_fc1.\3",
    _LAYER + r"mlp\.dense_4h_to_h\.(\w+)": r"decoder.layers.\2.mlp.linear_fc2.\3",
    r"language_model\.(?:encoder|transformer)\.final_layernorm\.(\w+)": r"decoder.final_layernorm.\2",
    r"language_model\.output_layer\.weight": "output_layer.weight",
}

MEGATRON_ORDERS = {0: "n h d", 1: "h d n", 2: "h n d", 3: "h n d"}
"""Order of the rows of query_key_value by Megatron-LM's checkpoint_version: n = query, key, value; h = heads."""


def mingpt_2020(tensors: Tensors, path: Path) -> dict[str, LazyTensor] | None:
    """Return the tensors of a minGPT of 2020 under minGPT's later names; None if they are of another layout.

    Raises:
        CheckpointMismatch: Query, key and value of a layer do not fit together.
    """
    if not any(name.endswith("blocks.0.attn.key.weight") for name in tensors):
        return None
    named = _rename(tensors, _MINGPT_2020, path)
    joined: list[tuple[str, LazyTensor]] = []
    for name, tensor in named.items():
        if tensor.shape[:1] == (1,) and len(tensor.shape) == 3:  # the positions
            joined.append((name, _rows(tensor, tensor.shape[1:], 0)))
        elif ".attn.query." in name:
            names = [name.replace(".query.", f".{kind}.") for kind in ("query", "key", "value")]
            joined.append((name.replace(".query.", ".c_attn."), _joined(named, names, path)))
        elif ".attn.key." not in name and ".attn.value." not in name:
            joined.append((name, tensor))
    return _unique(joined, path)


def fast_book(tensors: Tensors, path: Path) -> dict[str, LazyTensor] | None:
    """Return the tensors of the book's model for fast training under the names of its GPTModel, or None.

    Raises:
        CheckpointMismatch: Two tensors get the same name.
    """
    if not any(name.endswith("trf_blocks.0.att.qkv.weight") for name in tensors):
        return None
    divided: list[tuple[str, LazyTensor]] = []
    for name, tensor in _rename(tensors, _FAST_BOOK, path).items():
        if ".att.qkv." in name and tensor.shape and tensor.shape[0] % 3 == 0:
            n = tensor.shape[0] // 3
            for i, part in enumerate(("W_query", "W_key", "W_value")):
                third = _rows(tensor, (n, *tensor.shape[1:]), slice(i * n, (i + 1) * n))
                divided.append((name.replace(".qkv.", f".{part}."), third))
        else:
            divided.append((name, tensor))
    return _unique(divided, path)


def legacy_megatron(model: Mapping[Any, Any], path: Path) -> dict[str, LazyTensor] | None:
    """Return the tensors of a Megatron-LM before Megatron core under the latter's names, or None.

    The order of query, key and value is still that of the checkpoint's version: see reorder_megatron.

    Raises:
        CheckpointMismatch: Two tensors get the same name.
    """
    if not isinstance(model.get("language_model"), dict):
        return None
    return _rename(_flatten(model), _LEGACY_MEGATRON, path)


def reorder_megatron(tensors: Tensors, config: GPTConfig, version: int) -> dict[str, LazyTensor]:
    """Return the tensors with query, key and value in the order of version 3; for the versions of MEGATRON_ORDERS."""
    order, sizes = MEGATRON_ORDERS[version], pattern_sizes(config)
    if order == MEGATRON_ORDERS[3]:
        return dict(tensors)

    def reordered(tensor: LazyTensor) -> LazyTensor:
        columns = " i" if len(tensor.shape) > 1 else ""
        pattern = parse(f"({order}){columns} -> (h n d){columns}")
        return LazyTensor(tensor.shape, tensor.dtype, lambda: pattern.apply(tensor.load(), sizes))

    names = re.compile(r"decoder\.layers\.\d+\.self_attention\.linear_qkv\.(weight|bias)")
    rows = math.prod(sizes.values())
    fits = {name for name, tensor in tensors.items() if names.fullmatch(name) and tensor.shape[:1] == (rows,)}
    return {name: reordered(tensor) if name in fits else tensor for name, tensor in tensors.items()}


def _rename(tensors: Tensors, names: Mapping[str, str], path: Path) -> dict[str, LazyTensor]:
    """Rename tensors by patterns; what a wrapper put before the names is kept."""
    patterns = [(re.compile(f"{_START}{old}"), rf"\g<start>{new}") for old, new in names.items()]

    def renamed(name: str) -> str:
        return next((match.expand(new) for old, new in patterns if (match := old.fullmatch(name))), name)

    return _unique([(renamed(name), tensor) for name, tensor in tensors.items()], path)


def _unique(named: list[tuple[str, LazyTensor]], path: Path) -> dict[str, LazyTensor]:
    found = dict(named)
    if len(found) < len(named):
        counts = Counter(name for name, _ in named)
        raise CheckpointMismatch(path, [f"several tensors mean {name}" for name, n in counts.items() if n > 1])
    return found


def _joined(named: Tensors, names: list[str], path: Path) -> LazyTensor:
    """Return several tensors below each other as one."""
    found = [named[name] for name in names if name in named]
    first = found[0]
    if (
        len(found) != len(names)
        or not first.shape
        or any((part.shape, part.dtype) != (first.shape, first.dtype) for part in found)
    ):
        raise CheckpointMismatch(path, [f"{', '.join(names)} are not three tensors of one shape and dtype"])
    shape = (len(found) * first.shape[0], *first.shape[1:])
    return LazyTensor(shape, first.dtype, lambda: np.concatenate([part.load() for part in found]))


def _rows(tensor: LazyTensor, shape: tuple[int, ...], rows: int | slice) -> LazyTensor:
    return LazyTensor(shape, tensor.dtype, lambda: tensor.load()[rows])


def _flatten(tree: Mapping[Any, Any], start: str = "", depth: int = 8) -> dict[str, LazyTensor]:
    found: dict[str, LazyTensor] = {}
    for key, value in tree.items():
        if isinstance(value, LazyTensor):
            found[f"{start}{key}"] = value
        elif isinstance(value, dict) and depth:
            found |= _flatten(value, f"{start}{key}.", depth - 1)
    return found
