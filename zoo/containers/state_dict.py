"""Flat files of named tensors in either container: safetensors or torch.save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.containers.safetensors import is_safetensors, read_safetensors
from zoo.containers.torch.file import read_torch
from zoo.core.tensors import LazyTensor
from zoo.errors import FormatError


def read_state_dict(path: Path) -> dict[str, LazyTensor]:
    """Open a file that holds named tensors and nothing else.

    Raises:
        FormatError: it holds something else.
    """
    if path.suffix == ".safetensors" or is_safetensors(path):
        return read_safetensors(path)[0]
    return as_state_dict(read_torch(path), path)


def as_state_dict(tree: Any, path: Path) -> dict[str, LazyTensor]:
    """Return a pickled tree as a flat dict of tensors.

    Raises:
        FormatError: it is something else.
    """
    if not isinstance(tree, dict):
        raise FormatError(path, f"holds a {type(tree).__name__}, not a dict of tensors")
    for name, value in tree.items():
        if not isinstance(name, str) or not isinstance(value, LazyTensor):
            raise FormatError(path, f"holds {name!r}, which is not a tensor, so it is not a plain state dict")
    return tree
