"""Weights of eight and four bits: symmetric, rounded to nearest, no calibration data.

int8 has a float32 scale for each row. int4 has a bfloat16 scale for each 32 columns of a row, chosen among a few for
the least squared error. Numbers are packed as engine/csrc/int_kernels.h multiplies them: 16 rows are interleaved, a
word of each in turn; a word holds 4 or 8 adjacent columns, the even ones in its low half.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from zoo.core.tensors import DTYPES, LazyTensor

KINDS = ("int8", "int4")
GROUP = 32
ROWS = 16  # that lie together
_LEVELS = (-8.0, -8.4, -7.6, -7.2, 8.0, 7.6, 7.2, 7.0)
"""What the weight of largest magnitude of a group may become, before rounding; -8 uses one level more than 7."""
_LEAST = 3e-39  # scales whose reciprocal is a number


@dataclass(frozen=True)
class Quantized:
    """A quantised matrix.

    Attributes:
        data: packed numbers, int32 (ceil(rows / 16), words, 16); a word is 4 columns of a row (int8), or 8 (int4).
        scales: float32 (rows,), or for int4 bfloat16 (ceil(rows / 16), groups of 32 columns, 16).
        kind: "int8" or "int4".
        shape: (rows, columns) of the matrix.
    """

    data: NDArray[np.generic]
    scales: NDArray[np.generic]
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class QuantizedTensor(LazyTensor):
    """A matrix that is stored quantised, in a file or soon; load() gives the float32 values that it stands for.

    Attributes:
        kind: "int8" or "int4".
        stored: returns it as it is stored.
    """

    kind: str
    stored: Callable[[], Quantized]

    @classmethod
    def of_stored(cls, shape: tuple[int, ...], kind: str, stored: Callable[[], Quantized]) -> QuantizedTensor:
        """Make one of shape (rows, columns)."""
        return cls(shape, DTYPES["float32"], lambda: dequantize(stored()), kind, stored)

    @property
    def stored_as(self) -> str:
        """The kind."""
        return self.kind

    @property
    def stored_nbytes(self) -> int:
        """Size of numbers and scales in bytes."""
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in parts(self.shape, self.kind))


def kind_of(name: str, shape: tuple[int, ...], kind: str | None) -> str | None:
    """Return how a parameter, by zoo's name, is stored in a model of a kind; None if as it is.

    Matrices are quantised. Of positions a token reads one row only. The embedding of tokens and the head lose most
    by four bits, and keep eight; so do llama.cpp's.
    """
    if kind is None or len(shape) != 2 or name == "pos_emb.weight":
        return None
    return "int8" if name in ("tok_emb.weight", "head.weight") else kind


def parts(shape: tuple[int, ...], kind: str) -> list[tuple[tuple[int, ...], np.dtype[np.generic]]]:
    """Return shape and dtype of the data and of the scales of a matrix of this shape."""
    blocks, groups = -(-shape[0] // ROWS), -(-shape[1] // GROUP)
    data = (blocks, groups * GROUP // _per_word(kind), ROWS), np.dtype(np.int32)
    if kind == "int8":
        return [data, ((shape[0],), DTYPES["float32"])]
    return [data, ((blocks, groups, ROWS), DTYPES["bfloat16"])]


def quantize(weight: NDArray[np.generic], kind: str) -> Quantized:
    """Quantise a matrix, (rows, columns) of any float dtype, some rows at a time."""
    rows, columns = weight.shape
    (shape, dtype), (scales_shape, scales_dtype) = parts(weight.shape, kind)
    made = Quantized(np.empty(shape, dtype), np.zeros(scales_shape, scales_dtype), kind, weight.shape)
    step = ROWS * max(1, (1 << 16) // (ROWS * columns))  # what fits a cache
    for i in range(0, rows, step):
        part = weight[i : i + step].astype(np.float32)
        part = np.pad(part, ((0, -len(part) % ROWS), (0, -columns % GROUP)))
        block = slice(i // ROWS, (i + len(part)) // ROWS)
        numbers, scales = _int8(part) if kind == "int8" else _int4(part)
        if kind == "int8":
            made.scales[i : i + step] = scales[: rows - i]
        else:
            made.scales[block] = scales.reshape(-1, ROWS, scales.shape[1]).swapaxes(1, 2)
        made.data[block] = _pack(numbers, kind)
    return made


def dequantize(matrix: Quantized) -> NDArray[np.float32]:
    """Return the float32 values that a quantised matrix stands for."""
    rows, columns = matrix.shape
    values = np.empty(matrix.shape, np.float32)
    step = max(1, (1 << 20) // (ROWS * columns))
    for block in range(0, len(matrix.data), step):
        numbers = _unpack(matrix.data[block : block + step], matrix.kind)
        i, n = block * ROWS, min(len(numbers), rows - block * ROWS)
        if matrix.kind == "int8":
            scales = matrix.scales[i : i + n, None].astype(np.float32)
        else:
            scales = matrix.scales[block : block + step].astype(np.float32).swapaxes(1, 2).reshape(len(numbers), -1)
            scales = scales[:n].repeat(GROUP, axis=1)[:, :columns]
        with np.errstate(invalid="ignore", over="ignore"):  # a damaged file's scales may be anything
            values[i : i + n] = numbers[:n, :columns] * scales
    return values


def _per_word(kind: str) -> int:
    return 4 if kind == "int8" else 8


# Which columns of a word its bytes hold: of int4 the low halves, and behind them the high ones.
_COLUMNS = {"int8": [0, 2, 1, 3], "int4": [0, 4, 1, 5, 2, 6, 3, 7]}


def _pack(numbers: NDArray[np.float32], kind: str) -> NDArray[np.int32]:
    """(16 * blocks, columns) -> (blocks, words, 16)."""
    fields = numbers.astype(np.int8).view(np.uint8)
    words = fields.reshape(len(numbers), -1, _per_word(kind))[..., _COLUMNS[kind]]
    if kind == "int4":
        words = np.asarray(words[..., :4] & 15 | words[..., 4:] << 4, np.uint8)
    return np.ascontiguousarray(words).view("<i4").reshape(-1, ROWS, words.shape[1]).swapaxes(1, 2)


def _unpack(data: NDArray[np.generic], kind: str) -> NDArray[np.float32]:
    """(blocks, words, 16) -> (16 * blocks, columns)."""
    rows = np.ascontiguousarray(data.swapaxes(1, 2)).reshape(len(data) * ROWS, -1, 1)
    found = rows.view(np.int8)
    if kind == "int4":
        found = np.concatenate([found << 4 >> 4, found >> 4], axis=2)
    numbers = np.empty(found.shape, np.float32)
    numbers[..., _COLUMNS[kind]] = found
    return numbers.reshape(len(rows), -1)


def _int8(weight: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    scales = np.maximum(np.abs(weight).max(1) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    return np.rint(weight / scales[:, None]).clip(-127, 127), scales


def _int4(weight: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    """Numbers (rows, columns) and scales (rows, groups) of whole groups."""
    groups = weight.reshape(len(weight), -1, GROUP)
    peak = np.take_along_axis(groups, np.abs(groups).argmax(2)[..., None], 2)  # with its sign
    best, best_error = np.zeros_like(peak), np.full_like(peak, np.inf)
    for level in _LEVELS:
        scale = (peak / np.float32(level)).astype(ml_dtypes.bfloat16).astype(np.float32)
        error = _round(groups, scale)
        error *= scale
        error -= groups
        error *= error
        total = error.sum(2, keepdims=True)
        best, best_error = np.where(total < best_error, scale, best), np.minimum(total, best_error)
    return _round(groups, best).reshape(weight.shape), best[..., 0].astype(ml_dtypes.bfloat16)


def _round(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    number = weight * np.divide(1, scale, out=np.zeros_like(scale), where=np.abs(scale) > _LEAST)
    return np.clip(np.rint(number, out=number), -8, 7, out=number)
