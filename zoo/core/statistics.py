"""Statistics of a tensor's values, computed chunk by chunk."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zoo.core.tensors import LazyTensor, chunks


@dataclass(frozen=True)
class Statistics:
    """Statistics of a tensor. NaN and infinite values are counted and excluded from the rest.

    Attributes:
        mean: Mean of the finite values; NaN if there are none, like the next three.
        std: Population standard deviation.
        min: Smallest value.
        max: Largest value.
        nan: Number of NaN values.
        inf: Number of infinite values.
        norm: Euclidean norm of the finite values.
    """

    mean: float
    std: float
    min: float
    max: float
    nan: int
    inf: int
    norm: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics by name; NaN becomes None, because JSON has no NaN."""
        return {name: None if isinstance(x, float) and math.isnan(x) else x for name, x in asdict(self).items()}


def statistics(tensor: LazyTensor) -> Statistics:
    """Read a tensor and return its statistics; those of byte strings are NaN.

    Sums are float64 and combined chunk by chunk (Chan et al., 1983).
    """
    if tensor.dtype.hasobject:  # TensorFlow's byte strings
        return Statistics(math.nan, math.nan, math.nan, math.nan, 0, 0)
    count, mean, squares = 0, 0.0, 0.0
    low, high, nan, inf = math.inf, -math.inf, 0, 0
    for chunk in chunks(tensor.load()):
        with np.errstate(invalid="ignore"):  # signalling NaN
            values = chunk.reshape(-1).astype(np.float64)
        finite = values[np.isfinite(values)]
        nan += int(np.isnan(values).sum())
        inf += int(np.isinf(values).sum())
        if not finite.size:
            continue
        chunk_mean = float(finite.mean())
        delta, total = chunk_mean - mean, count + finite.size
        squares += float(np.square(finite - chunk_mean).sum()) + delta**2 * count * finite.size / total
        mean += delta * finite.size / total
        count, low, high = total, min(low, float(finite.min())), max(high, float(finite.max()))
    if not count:
        return Statistics(math.nan, math.nan, math.nan, math.nan, nan, inf)
    return Statistics(mean, math.sqrt(squares / count), low, high, nan, inf, math.sqrt(squares + count * mean**2))


def histogram(tensor: LazyTensor, measured: Statistics, *, bins: int = 41, width: float = 4.0) -> list[int]:
    """Count a tensor's finite values in equal bins around their mean. The outer bins include all values beyond them.

    Args:
        tensor: Tensor to read.
        measured: Result of statistics() for it.
        bins: Number of bins.
        width: Width of all bins on each side of the mean, in standard deviations.
    """
    counts = np.zeros(bins, np.int64)
    if math.isnan(measured.std):
        return [0] * bins
    step = 2 * width * (measured.std or 1.0) / bins
    for chunk in chunks(tensor.load()):
        values = chunk.reshape(-1).astype(np.float64)
        places = (values[np.isfinite(values)] - measured.mean) / step + bins / 2
        counts += np.bincount(np.clip(places, 0, bins - 1).astype(np.int64), minlength=bins)
    return [int(count) for count in counts]
