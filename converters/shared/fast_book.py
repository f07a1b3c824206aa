"""The book's model for fast training (ch05/10_llm-training-speed) under the names of its GPTModel."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from zoo.core.tensors import LazyTensor, Tensors
from zoo.errors import CheckpointMismatch

_START = r"(?P<start>^|.*?\.)"

_FAST_BOOK = {
    r"trf_blocks\.(\d+)\.att\.proj\.(\w+)": r"trf_blocks.\2.att.out_proj.\3",
    r"trf_blocks\.(\d+)\.norm([12])\.weight": r"trf_blocks.\2.norm\3.scale",
    r"trf_blocks\.(\d+)\.norm([12])\.bias": r"trf_blocks.\2.norm\3.shift",
    r"final_norm\.weight": "final_norm.scale",
    r"final_norm\.bias": "final_norm.shift",
}


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


def _rows(tensor: LazyTensor, shape: tuple[int, ...], rows: int | slice) -> LazyTensor:
    return LazyTensor(shape, tensor.dtype, lambda: tensor.load()[rows])
