"""Compare two checkpoints of any formats in zoo's names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.core.html import html_table
from zoo.core.tensors import Array, LazyTensor, Tensors, chunks, same_bits
from zoo.errors import OptionError
from zoo.formats.content_hash import unpadded
from zoo.formats.opening import open_path
from zoo.models.gpt2.config import GPTConfig
from zoo.models.registry import Size

_IMMATERIAL = ("dropout", "vocab_rows")
"""Fields of a config that do not change what a model computes."""


@dataclass(frozen=True)
class TensorDiff:
    """The difference between two tensors of the same name.

    Attributes:
        name: Name of the parameter in zoo.
        same: Whether dtype, shape and all bits are equal.
        why: "" if the values can be compared; otherwise the reason: one is missing, or the shapes differ.
        dtypes: Dtypes of the first and the second tensor.
        max_abs: Largest absolute difference; NaN if only one of two values is NaN.
        max_rel: Largest difference relative to the larger of the two values.
        max_ulp: Largest distance in units in the last place; None for different dtypes.
        cosine: Cosine similarity of the two; NaN if one is zero.
        n_different: Number of values whose bits differ (for different dtypes: whose values differ).
    """

    name: str
    same: bool
    why: str = ""
    dtypes: tuple[str, str] = ("", "")
    max_abs: float = 0.0
    max_rel: float = 0.0
    max_ulp: int | None = 0
    cosine: float = 1.0
    n_different: int = 0


@dataclass(frozen=True)
class Diff:
    """All differences between two checkpoints.

    Attributes:
        config: Field -> the two values, for fields that differ; see `config_matters`.
        tensors: One entry per parameter of either checkpoint.
        atol: Largest difference that counts as equal.
    """

    config: dict[str, tuple[Any, Any]]
    tensors: list[TensorDiff]
    atol: float = 0.0

    @property
    def config_matters(self) -> list[str]:
        """Fields that differ and that change what the model computes."""
        return [name for name in self.config if name not in _IMMATERIAL]

    @property
    def different(self) -> list[TensorDiff]:
        """The tensors that differ, by more than atol if it is set."""
        if not self.atol:
            return [each for each in self.tensors if not each.same]
        return [each for each in self.tensors if each.why or not each.max_abs <= self.atol]

    @property
    def same(self) -> bool:
        """Whether both are the same model."""
        return not self.different and not self.config_matters

    def __repr__(self) -> str:
        return f"Diff({'same' if self.same else 'different'}, {len(self.different)} of {len(self.tensors)} tensors)"

    def _repr_html_(self) -> str:
        rows = [(d.name, d.why or f"{d.max_abs:.3g}", f"{d.cosine:.9f}", f"{d.n_different:,}") for d in self.different]
        return html_table(("tensor", "max abs", "cosine", "values"), rows)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON values; NaN becomes None."""
        tensors = [
            {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in asdict(each).items()}
            for each in self.tensors
        ]
        return {"same": self.same, "config": self.config, "atol": self.atol, "tensors": tensors}


def diff_paths(
    a: Path | str,
    b: Path | str,
    *,
    formats: tuple[str | None, str | None] = (None, None),
    size: Size | None = None,
    atol: float = 0.0,
    on_tensor: Callable[[int, int], None] | None = None,
) -> Diff:
    """Compare two checkpoints tensor by tensor, a few chunks in memory at a time.

    Rows of padding are left out; a tied head is compared as the embedding that it is.

    Args:
        a: file or directory of any format.
        b: another.
        formats: theirs; None recognises one.
        size: the model that both must be.
        atol: difference of two values that counts as none.
        on_tensor: called as on_tensor(tensors done, tensors in all).

    Raises:
        ZooError: one of them is not an intact checkpoint, or atol is not a number of at least 0.
    """
    if not atol >= 0:  # NaN, too
        raise OptionError(f"must be a number of at least 0, not {atol}", option="atol")
    configs: list[GPTConfig] = []
    sides: list[Tensors] = []
    for path, name in zip((a, b), formats, strict=True):
        found, checkpoint = open_path(path, format=name, size=size)
        ours, _ = found.to_ours(checkpoint)
        configs.append(checkpoint.config)
        sides.append({name: unpadded(name, tensor, checkpoint.config) for name, tensor in ours.items()})
    first, second = (config.to_dict() for config in configs)
    names = [*sides[0], *(name for name in sides[1] if name not in sides[0])]
    tensors = []
    for i, name in enumerate(names, start=1):
        tensors.append(_diff(name, sides[0].get(name), sides[1].get(name)))
        if on_tensor:
            on_tensor(i, len(names))
    fields = {name: (first[name], second[name]) for name in first if first[name] != second[name]}
    return Diff(fields, tensors, atol)


def _diff(name: str, a: LazyTensor | None, b: LazyTensor | None) -> TensorDiff:
    if a is None or b is None:
        return TensorDiff(name, same=False, why=f"only in the {'second' if a is None else 'first'}")
    dtypes = (a.dtype.name, b.dtype.name)
    if a.shape != b.shape:
        return TensorDiff(name, same=False, why=f"shapes {list(a.shape)} and {list(b.shape)}", dtypes=dtypes)
    x, y = a.load(), b.load()
    if same_bits(x, y):
        return TensorDiff(name, same=True, dtypes=dtypes)
    return _measure(name, x, y)


def _measure(name: str, a: Array, b: Array) -> TensorDiff:
    """Compare two arrays of the same shape, chunk by chunk, in float64."""
    max_abs, max_rel, max_ulp, n = 0.0, 0.0, 0, 0
    dot, square_a, square_b = 0.0, 0.0, 0.0
    alike = a.dtype == b.dtype
    # Chunks with the same number of values for all dtypes.
    parts = zip(chunks(a, a.itemsize << 18), chunks(b, b.itemsize << 18), strict=True)
    for x, y in parts:
        if alike:
            steps = _steps(x, y)
            max_ulp, n = max(max_ulp, int(steps.max())), n + int((x.view(_bits(x)) != y.view(_bits(y))).sum())
        u, v = x.astype(np.float64), y.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            gap = np.where((u == v) | (np.isnan(u) & np.isnan(v)), 0.0, np.abs(u - v))
            rel = np.where(gap == 0, 0.0, gap / np.maximum(np.abs(u), np.abs(v)))
            dot, square_a, square_b = dot + (u * v).sum(), square_a + (u * u).sum(), square_b + (v * v).sum()
        n += 0 if alike else int((gap != 0).sum())
        max_abs, max_rel = float(np.maximum(max_abs, gap.max())), float(np.maximum(max_rel, rel.max()))
    length = math.sqrt(square_a) * math.sqrt(square_b) if math.isfinite(square_a + square_b) else math.nan
    return TensorDiff(
        name,
        same=False,
        dtypes=(a.dtype.name, b.dtype.name),
        max_abs=max_abs,
        max_rel=max_rel,
        max_ulp=max_ulp if alike else None,
        cosine=float(dot / length) if length else math.nan,
        n_different=n,
    )


def _bits(array: Array) -> np.dtype[Any]:
    return np.dtype(f"u{array.dtype.itemsize}")


def _steps(a: Array, b: Array) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return the distance in representable numbers: the difference of the bits in the order of the values."""

    def ordered(array: Array) -> np.ndarray[Any, np.dtype[np.uint64]]:
        bits = array.view(_bits(array)).astype(np.uint64)
        sign = np.uint64(1 << (array.dtype.itemsize * 8 - 1))
        # Negative numbers count down from the sign bit, so that -0.0 and 0.0 are equal.
        return np.where(bits & sign, sign - (bits & (sign - np.uint64(1))), sign + bits)

    x, y = ordered(a), ordered(b)
    return np.where(x > y, x - y, y - x)
