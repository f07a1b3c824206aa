"""Weights of eight and four bits: symmetric, rounded to nearest, no calibration data.

int8 has a float32 scale for each row. int4 has a bfloat16 scale for each 32 columns of a row, chosen among a few for
the least squared error; its packing (128 weights in 16 words) is what tile.h unpacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from zoo.tensors import DTYPES, LazyTensor

KINDS = ("int8", "int4")
GROUP = 32
_BLOCK = 128  # weights packed together
_LEVELS = (-8.0, -8.4, -7.6, -7.2, 8.0, 7.6, 7.2, 7.0)
"""What the weight of largest magnitude of a group may become, before rounding; -8 uses one level more than 7."""


@dataclass(frozen=True)
class Quantized:
    """A quantised matrix.

    Attributes:
        data: int8 (rows, columns), or int32 (rows, 16 * blocks of 128 columns) for int4.
        scales: float32 (rows,), or bfloat16 (rows, 4 * blocks) for int4.
        kind: "int8" or "int4".
        columns: of the matrix.
    """

    data: NDArray[np.generic]
    scales: NDArray[np.generic]
    kind: str
    columns: int


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
    rows, columns = shape
    if kind == "int8":
        return [(shape, np.dtype(np.int8)), ((rows,), DTYPES["float32"])]
    blocks = -(-columns // _BLOCK)
    return [((rows, 16 * blocks), np.dtype(np.int32)), ((rows, 4 * blocks), DTYPES["bfloat16"])]


def quantize(weight: NDArray[np.generic], kind: str) -> Quantized:
    """Quantise a matrix, (rows, columns) of any float dtype, some rows at a time."""
    step = max(1, (1 << 20) // weight.shape[1])
    one = _int8 if kind == "int8" else _int4
    parts = [one(weight[i : i + step].astype(np.float32)) for i in range(0, len(weight), step)]
    return Quantized(
        np.concatenate([data for data, _ in parts]),
        np.concatenate([scales for _, scales in parts]),
        kind,
        weight.shape[1],
    )


def dequantize(matrix: Quantized) -> NDArray[np.float32]:
    """Return the float32 values that a quantised matrix stands for."""
    values = np.empty((len(matrix.data), matrix.columns), np.float32)
    step = max(1, (1 << 20) // matrix.columns)
    plain = _plain8 if matrix.kind == "int8" else _plain4
    with np.errstate(invalid="ignore", over="ignore"):  # a damaged file's scales may be anything
        for i in range(0, len(values), step):
            values[i : i + step] = plain(matrix.data[i : i + step], matrix.scales[i : i + step])[:, : matrix.columns]
    return values


def _plain8(data: NDArray[np.generic], scales: NDArray[np.generic]) -> NDArray[np.float32]:
    return data.astype(np.float32) * scales.astype(np.float32)[:, None]


def _plain4(data: NDArray[np.generic], scales: NDArray[np.generic]) -> NDArray[np.float32]:
    words = data.reshape(len(data), -1, 1, 16).view(np.int32)
    shifts = np.arange(28, -1, -4, dtype=np.int32)[:, None]
    q = ((words << shifts) >> 28).reshape(len(words), -1, GROUP).astype(np.float32)
    return (q * scales.astype(np.float32)[..., None]).reshape(len(words), -1)


def _int8(weight: NDArray[np.float32]) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    scales = np.maximum(np.abs(weight).max(1) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    return np.rint(weight / scales[:, None]).clip(-127, 127).astype(np.int8), scales


def _int4(weight: NDArray[np.float32]) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    rows, columns = weight.shape
    weight = np.pad(weight, ((0, 0), (0, -columns % _BLOCK))).reshape(rows, -1, GROUP)
    peak = np.take_along_axis(weight, np.abs(weight).argmax(2)[..., None], 2)  # with its sign
    best, best_error = np.zeros_like(peak), np.full_like(peak, np.inf)
    for level in _LEVELS:
        scale = (peak / np.float32(level)).astype(ml_dtypes.bfloat16).astype(np.float32)
        error = ((_round(weight, scale) * scale - weight) ** 2).sum(2, keepdims=True)
        best, best_error = np.where(error < best_error, scale, best), np.minimum(error, best_error)
    nibbles = _round(weight, best).astype(np.int32).reshape(rows, -1, 8, 16) & 15
    shifts = np.arange(0, 32, 4, dtype=np.uint32)[:, None]
    words = np.bitwise_or.reduce(nibbles.astype(np.uint32) << shifts, axis=2).reshape(rows, -1)
    return words.view(np.int32), best[..., 0].astype(ml_dtypes.bfloat16)


def _round(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.rint(np.divide(weight, scale, out=np.zeros_like(weight), where=scale != 0)).clip(-8, 7)
