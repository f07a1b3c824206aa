"""Numbers about the values of a tensor, gathered a chunk at a time."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zoo.core.tensors import LazyTensor, chunks


@dataclass(frozen=True)
class Statistics:
    """What the values of a tensor look like; NaN and infinite ones are counted and left out of the rest.

    Attributes:
        mean: of the finite values; NaN where there are none, as for the next three.
        std: their standard deviation, of the whole population.
        min: the smallest.
        max: the largest.
        nan: how many are NaN.
        inf: how many are infinite.
        norm: Euclidean length of the finite values as one vector.
    """

    mean: float
    std: float
    min: float
    max: float
    nan: int
    inf: int
    norm: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers by name, None for what is no number, as JSON has no NaN."""
        return {name: None if isinstance(x, float) and math.isnan(x) else x for name, x in asdict(self).items()}


def statistics(tensor: LazyTensor) -> Statistics:
    """Read a tensor and describe its values; of byte strings there is nothing to tell.

    Sums are float64, combined chunk by chunk (Chan et al., 1983).
    """
    if tensor.dtype.hasobject:  # TensorFlow's byte strings
        return Statistics(math.nan, math.nan, math.nan, math.nan, 0, 0)
    count, mean, squares = 0, 0.0, 0.0
    low, high, nan, inf = math.inf, -math.inf, 0, 0
    for chunk in chunks(tensor.load()):
        with np.errstate(invalid="ignore"):  # a signalling NaN
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
    """Count a tensor's finite values in equal bins around their mean; what lies further out is in the first and last.

    Args:
        tensor: to read.
        measured: what statistics() said of it.
        bins: how many.
        width: of all bins to each side of the mean, in standard deviations.
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
