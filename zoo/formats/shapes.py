"""The sizes of a model that follow from the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from zoo.core.tensors import LazyTensor, Tensors
from zoo.formats.rules import Table


def first_layer(table: Table, tensors: Tensors) -> dict[str, LazyTensor]:
    """Return the tensors outside the layers and in the first one, by zoo's name with "{i}" for the layer."""
    return {ours: tensors[theirs] for ours, theirs in _names(table, 0).items() if theirs in tensors}


def sizes_of(table: Table, tensors: Tensors) -> dict[str, int]:
    """Return the fields of GPTConfig that tensors in a format's names determine; other fields are missing."""
    found = first_layer(table, tensors)
    sizes: dict[str, int] = {}
    embedding, positions = (found.get(f"{name}_emb.weight") for name in ("tok", "pos"))
    if embedding is not None and len(embedding.shape) == 2:
        sizes |= {"vocab_rows": embedding.shape[0], "width": embedding.shape[1]}
    if positions is not None and len(positions.shape) in (2, 3):  # (T, C), or (1, T, C)
        sizes |= {"context_length": positions.shape[-2], "width": positions.shape[-1]}
    up = found.get("blocks.{i}.mlp.up.weight")
    if up is not None and sizes.get("width"):
        sizes["inner_width"] = up.size // sizes["width"]
    return {**sizes, "n_layers": _count_layers(table, tensors)}


def contradiction(fields: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return a clause on the fields in which two descriptions of a model differ; "" if they agree."""
    differing = [name for name, value in found.items() if name in fields and fields[name] != value]
    return (
        "it has " + ", ".join(f"{name} {found[name]} (not {fields[name]})" for name in differing) if differing else ""
    )


def _names(table: Table, layer: int) -> dict[str, str]:
    """Return the format's names of a layer's parameters; of several tensors for one parameter, the first."""
    first = {rule.ours: rule.theirs if isinstance(rule.theirs, str) else rule.theirs[0] for rule in table.rules}
    return {ours: theirs.replace("{i}", str(layer)) for ours, theirs in first.items()}


def _count_layers(table: Table, tensors: Tensors) -> int:
    return next(i for i in count() if _names(table, i)["blocks.{i}.norm1.weight"] not in tensors)
