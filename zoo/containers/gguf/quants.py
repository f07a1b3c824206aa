"""ggml's types of tensors: plain numbers, and blocks of values that share a scale.

The layout of the blocks is that of ggml/src/ggml-common.h; the arithmetic is that of quantize_row_*_ref and
dequantize_row_* in ggml/src/ggml-quants.c, so that the bits are the same. n is the number of blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo.core.tensors import CHUNK_BYTES, DTYPES, Array, LazyTensor, chunks
from zoo.errors import CannotHold

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Blocks = NDArray[np.void]  # structured: the fields of a block


def quantise(array: Array, name: str) -> Array:
    """Return the bytes of an array's blocks, uint8 (n * bytes of a block).

    Args:
        array: Array of float32 or narrower, each row a multiple of the block size.
        name: Name of a type in QUANTS that has an encoder.

    Raises:
        ValueError: a value is not finite, or too large for the scale, which is a float16.
    """
    quant = QUANTS[name]
    if quant.encode is None:
        raise ValueError(f"zoo only reads {name}")
    blocks = np.empty(array.size // quant.values, quant.block)
    start = 0
    for piece in chunks(array):
        values = piece.astype(np.float32, copy=False).reshape(-1, quant.values)
        quant.encode(values, blocks[start : start + len(values)])
        start += len(values)
    return blocks.view(np.uint8)


def dequantise(blocks: Blocks, name: str, shape: tuple[int, ...]) -> Floats:
    """Return the values of blocks, whose dtype is that of QUANTS[name], as float32 of the given shape."""
    quant = QUANTS[name]
    values = np.empty((len(blocks), quant.values), np.float32)
    step = max(1, CHUNK_BYTES // (4 * quant.values))
    with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale may be infinite or NaN
        for start in range(0, len(blocks), step):
            values[start : start + step] = quant.decode(blocks[start : start + step])
    return values.reshape(shape)


def _scale(extreme: Floats, steps: int, out: Array) -> Floats:
    """Store a block's step size and return its reciprocal, 0 where there is none; both (n, 1)."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        step = extreme / steps
        out[:] = step[:, 0]
        reciprocal = 1 / step
    if not np.isfinite(out).all():
        raise ValueError("a value is not finite, or too large for blocks with a float16 scale")
    return np.where(np.isfinite(reciprocal), reciprocal, np.float32(0))


def _encode_q8_0(values: Floats, out: Blocks) -> None:
    scaled = values * _scale(np.abs(values).max(1, keepdims=True), 127, out["d"])
    size = np.abs(scaled)
    whole = np.floor(size)
    out["q"] = np.copysign(whole + np.floor(2 * (size - whole)), scaled)  # half away from zero, as C's roundf


def _encode_symmetric(values: Floats, out: Blocks, half: int) -> Bytes:
    """Return integers from 0 to 2 * half - 1; the value that is largest in size, the first such, becomes 0."""
    largest = np.abs(values).argmax(1, keepdims=True)
    scaled = values * _scale(np.take_along_axis(values, largest, 1), -half, out["d"])
    numbers: Bytes = (scaled + np.float32(half + 0.5)).astype(np.uint8)
    return np.minimum(numbers, 2 * half - 1, out=numbers)


def _encode_q4_0(values: Floats, out: Blocks) -> None:
    out["q"] = _pack(_encode_symmetric(values, out, 8))


def _encode_q5_0(values: Floats, out: Blocks) -> None:
    numbers = _encode_symmetric(values, out, 16)
    out["q"] = _pack(numbers & np.uint8(15))
    out["high"] = np.packbits(numbers >> 4, axis=1, bitorder="little")


def _pack(numbers: Bytes) -> Bytes:
    """Put the second half of each block into the upper bits of the first."""
    return numbers[:, :16] | numbers[:, 16:] << np.uint8(4)


def _unpack(blocks: Blocks) -> Bytes:
    """Return the 4-bit numbers of each block and, where there are any, the fifth bits."""
    numbers: Bytes = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=1)
    if "high" in (blocks.dtype.names or ()):
        numbers |= np.unpackbits(blocks["high"], axis=1, bitorder="little") << 4
    return numbers


def _column(scales: Array) -> Floats:
    return scales.astype(np.float32)[:, None]


def _decode_q8_0(blocks: Blocks) -> Floats:
    return blocks["q"].astype(np.float32) * _column(blocks["d"])


def _decode_q4_0(blocks: Blocks) -> Floats:
    return _column(blocks["d"]) * (_unpack(blocks).astype(np.float32) - 8)


def _decode_q5_0(blocks: Blocks) -> Floats:
    return _column(blocks["d"]) * (_unpack(blocks).astype(np.float32) - 16)


def _decode_with_minimum(blocks: Blocks) -> Floats:
    return _column(blocks["d"]) * _unpack(blocks).astype(np.float32) + _column(blocks["m"])


def _decode_q6_k(blocks: Blocks) -> Floats:
    """256 numbers of 6 bits: two halves, in each 4 times 32; every 16 numbers have an own 8-bit scale."""
    n = len(blocks)
    low = blocks["q"].reshape(n, 2, 1, 64) >> np.array([0, 4], np.uint8)[:, None] & 15
    high = blocks["high"].reshape(n, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    numbers = (low.reshape(n, 16, 16) | high.reshape(n, 16, 16) << 4).astype(np.float32) - 32
    scales = _column(blocks["d"]) * blocks["scales"].astype(np.float32)
    return (scales[:, :, None] * numbers).reshape(n, 256)


@dataclass(frozen=True)
class Quant:
    """A quantised type.

    Attributes:
        values: Values in a block.
        block: the bytes of a block.
        decode: blocks (n,) -> values (n, values).
        encode: writes values (n, values) into blocks (n,); None for types that zoo only reads.
    """

    values: int
    block: np.dtype[np.void]
    decode: Callable[[Blocks], Floats]
    encode: Callable[[Floats, Blocks], None] | None = None


def _fields(*fields: tuple[str, str, int] | tuple[str, str]) -> np.dtype[np.void]:
    return np.dtype(list(fields))


_D, _M, _HIGH, _NIBBLES = ("d", "<f2"), ("m", "<f2"), ("high", "u1", 4), ("q", "u1", 16)

QUANTS: dict[str, Quant] = {
    "Q4_0": Quant(32, _fields(_D, _NIBBLES), _decode_q4_0, _encode_q4_0),
    "Q4_1": Quant(32, _fields(_D, _M, _NIBBLES), _decode_with_minimum),
    "Q5_0": Quant(32, _fields(_D, _HIGH, _NIBBLES), _decode_q5_0, _encode_q5_0),
    "Q5_1": Quant(32, _fields(_D, _M, _HIGH, _NIBBLES), _decode_with_minimum),
    "Q8_0": Quant(32, _fields(_D, ("q", "i1", 32)), _decode_q8_0, _encode_q8_0),
    "Q6_K": Quant(256, _fields(("q", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), _D), _decode_q6_k),
}
"""The quantised types that zoo reads, by ggml's names. Q6_K is what llama-quantize makes of a tied embedding."""

PLAIN = {"F32": DTYPES["float32"], "F16": DTYPES["float16"], "BF16": DTYPES["bfloat16"]}
"""The types that are plain numbers, by ggml's names."""


def nbytes(type_name: str, shape: tuple[int, ...]) -> int:
    """Return how many bytes a tensor of this shape takes in a file; its rows must be whole blocks."""
    if type_name in PLAIN:
        return math.prod(shape) * PLAIN[type_name].itemsize
    return math.prod(shape) // QUANTS[type_name].values * QUANTS[type_name].block.itemsize


def encoded(name: str, tensor: LazyTensor, type_name: str) -> LazyTensor:
    """Return a tensor as it lies in a file: its values in another dtype, or the bytes of its blocks.

    Loading the result raises CannotHold, naming the tensor, where values do not fit the type.
    """
    if type_name in PLAIN:
        return tensor.astype(PLAIN[type_name])

    def load() -> Array:
        try:
            return quantise(tensor.load(), type_name)
        except ValueError as error:
            raise CannotHold(
                f"tensor {name} cannot be stored as {type_name}: {error}; choose another with dtype=NAME"
            ) from error

    return LazyTensor((nbytes(type_name, tensor.shape),), np.dtype(np.uint8), load)


def decoded(stored: LazyTensor, type_name: str, shape: tuple[int, ...]) -> LazyTensor:
    """Return the tensor that bytes of a file encode; quantised ones become float32."""
    if type_name in PLAIN:
        dtype = PLAIN[type_name]
        return LazyTensor(shape, dtype, lambda: stored.load().view(dtype).reshape(shape))
    block = QUANTS[type_name].block
    return LazyTensor(shape, DTYPES["float32"], lambda: dequantise(stored.load().view(block), type_name, shape))
