"""Quantised matrices in zoo files, as the decode engine uses them: mapped, without a step in between.

Of a matrix `name`, the file has the numbers under its own name and the scales under `name.scales`:

    int8   int32 words (blocks, columns / 4, 16), float32 scales (rows,): a value is number * scale of its row.
    int4   int32 words (blocks, columns / 8, 16), bfloat16 scales (blocks, columns / 32, 16): each 32 columns of a row
           have a scale.

A block is 16 rows, and the last of the three indices is the row in it; missing rows and columns are zeros up to
a multiple of 16 rows and 32 columns. Word w holds n = 4 (or 8) columns from n w on, as two's complements of b = 32 / n
bits: column n w + 2 i + j lies in its bits b i + 16 j to b i + 16 j + b - 1.

In a file of kind int4 the embedding of tokens and an untied head are stored as int8.

zoo/containers/quantized.py says how numbers and scales are chosen.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import numpy as np

from zoo.containers.quantized import KINDS, Quantized, QuantizedTensor, kind_of, parts, quantize
from zoo.core.tensors import Array, LazyTensor, Tensors, chunks
from zoo.errors import CannotHold, CorruptFile, FormatError
from zoo.models.gpt2.config import GPTConfig

ENCODING = "zoo.encoding"  # of the metadata
_SCALES = ".scales"


def quantised(name: str, tensor: LazyTensor, kind: str) -> LazyTensor:
    """Return a tensor as it will be stored: quantised if it is a matrix that is not quantised yet, else unchanged.

    Loading the result raises CannotHold where a value is not finite.
    """
    found = kind_of(name, tensor.shape, kind)
    if found is None or (isinstance(tensor, QuantizedTensor) and tensor.kind == found):
        return tensor

    def stored() -> Quantized:
        weight = tensor.load()
        if not all(np.isfinite(chunk).all() for chunk in chunks(weight)):
            raise CannotHold(
                f"tensor {name} cannot be stored as {kind}: a value is not finite; choose another with dtype=NAME"
            )
        return quantize(weight, found)

    return QuantizedTensor.of_stored(tensor.shape, found, stored)


def packed(tensors: Tensors, kind: str) -> dict[str, LazyTensor]:
    """Return the tensors of a file: those that stay, then all numbers, then all scales.

    In this order the large ones are aligned. Each matrix is quantised once: its scales are kept until they are written.
    """
    made = {name: quantised(name, tensor, kind) for name, tensor in tensors.items()}
    matrices = {name: tensor for name, tensor in made.items() if isinstance(tensor, QuantizedTensor)}
    numbers, scales = {}, {}
    for name, tensor in matrices.items():
        halves = _Halves(tensor)
        (shape, dtype), (scales_shape, scales_dtype) = parts(tensor.shape, tensor.kind)
        numbers[name] = LazyTensor(shape, dtype, halves.numbers)
        scales[name + _SCALES] = LazyTensor(scales_shape, scales_dtype, halves.scales)
    return {**{name: tensor for name, tensor in made.items() if name not in matrices}, **numbers, **scales}


class _Halves:
    """The numbers and the scales of a matrix that is quantised when its numbers are asked for."""

    def __init__(self, tensor: QuantizedTensor) -> None:
        self._tensor, self._lock = tensor, Lock()
        self._scales: Array | None = None

    def numbers(self) -> Array:
        with self._lock:
            made = self._tensor.stored()
            self._scales = made.scales
            return made.data

    def scales(self) -> Array:
        with self._lock:
            return self._tensor.stored().scales if self._scales is None else self._scales


def unpacked(tensors: Tensors, kind: str, config: GPTConfig, path: Path) -> dict[str, LazyTensor]:
    """Return the tensors that a file's numbers and scales are.

    Raises:
        FormatError: the quantisation is unknown.
        CorruptFile: numbers or scales of a matrix are missing, or have another shape or dtype.
    """
    if kind not in KINDS:
        raise FormatError(path, f"its matrices are stored as {kind!r}, which this version of zoo does not know")
    found = dict(tensors)
    for name, shape in config.parameter_shapes().items():
        if found_kind := kind_of(name, shape, kind):
            numbers, scales = found.pop(name, None), found.pop(name + _SCALES, None)
            if not numbers or not scales or [(t.shape, t.dtype) for t in (numbers, scales)] != parts(shape, found_kind):
                raise CorruptFile(path, f"{name} and its scales are not those of a matrix stored as {kind}")
            found[name] = _matrix(shape, found_kind, numbers, scales)
    in_order = {name: found.pop(name) for name in config.parameter_shapes() if name in found}
    return {**in_order, **found}


def _matrix(shape: tuple[int, ...], kind: str, numbers: LazyTensor, scales: LazyTensor) -> LazyTensor:
    return QuantizedTensor.of_stored(shape, kind, lambda: Quantized(numbers.load(), scales.load(), kind, shape))
