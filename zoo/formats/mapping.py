"""Map tensors between a format's names and zoo's, by the rules of a table.

Nothing is read here: the results are lazy tensors that are rearranged when they are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from zoo.core.pattern import Shape
from zoo.core.tensors import CHUNK_BYTES, DTYPES, Array, LazyTensor, Tensors, chunks, same_bits
from zoo.errors import CheckpointMismatch
from zoo.formats.rules import Derived, Drop, Row, Table, layer_names, pattern_sizes
from zoo.models.gpt2.config import GPTConfig


def to_ours(table: Table, tensors: Tensors, config: GPTConfig, path: Path) -> tuple[dict[str, LazyTensor], list[Drop]]:
    """Map a format's tensors to zoo's names and orientation, and return the tensors that are dropped.

    Raises:
        CheckpointMismatch: Names, shapes or dtypes differ from table and config; the message lists all differences.
    """
    drops = _drops(table, tensors, config)
    problems = _differences(table.shapes(config), tensors, {drop.name for drop in drops})
    ours: dict[str, LazyTensor] = {}
    for row in table.rows(config):
        parts = [tensors[name] for name in row.theirs if name in tensors]
        if len({part.dtype for part in parts}) > 1:
            problems.append(f"{', '.join(row.theirs)} have different dtypes")
        if len(parts) == len(row.theirs) and not problems:
            ours[row.ours] = _gather(row, parts, config)
    if problems:
        raise CheckpointMismatch(path, problems)
    return {name: ours[name] for name in config.parameter_shapes()}, drops


def to_theirs(table: Table, ours: Tensors, config: GPTConfig) -> dict[str, LazyTensor]:
    """Map zoo's tensors to a format's names and orientation, with the copies and buffers that the format requires."""
    theirs: dict[str, LazyTensor] = {}
    for row in table.rows(config):
        theirs.update(_scatter(row, ours[row.ours], config))
    if config.tied:
        theirs.update({copy.name: theirs[copy.source] for copy in table.copies if copy.written})
    for buffer in table.derived:
        tensor = buffer.build(config)
        if buffer.written and tensor.size:
            theirs.update(dict.fromkeys(layer_names(buffer.name, config.n_layers), tensor))
    return theirs


def strip_prefix(tensors: Tensors, prefixes: tuple[str, ...]) -> tuple[str, dict[str, LazyTensor]]:
    """Remove the first of the prefixes that any name has; return it ("" for none) and the tensors.

    If both a name and its prefixed form exist, the prefixed one keeps its prefix and is reported as unexpected.
    """
    prefix = next((p for p in prefixes if any(name.startswith(p) for name in tensors)), "")

    def strip(name: str) -> str:
        bare = name.removeprefix(prefix)
        return name if bare != name and bare in tensors else bare

    return prefix, {strip(name): tensor for name, tensor in tensors.items()}


def _gather(row: Row, parts: list[LazyTensor], config: GPTConfig) -> LazyTensor:
    """Combine a row's source tensors into zoo's tensor."""
    pattern, sizes = row.pattern, pattern_sizes(config)
    if pattern is None:
        return parts[0]

    def load() -> Array:
        arrays = [part.load() for part in parts]
        return pattern.apply(np.stack(arrays) if len(arrays) > 1 else arrays[0], sizes)

    stacked = (len(parts), *parts[0].shape) if len(parts) > 1 else parts[0].shape
    return LazyTensor(pattern.shape(stacked, sizes), parts[0].dtype, load)


def _scatter(row: Row, ours: LazyTensor, config: GPTConfig) -> dict[str, LazyTensor]:
    """Split zoo's tensor into a row's source tensors."""
    if row.pattern is None:
        return {row.theirs[0]: ours}
    back, sizes = row.pattern.reversed(), pattern_sizes(config)
    shape = back.shape(ours.shape, sizes)
    if len(row.theirs) == 1:
        return {row.theirs[0]: LazyTensor(shape, ours.dtype, lambda: back.apply(ours.load(), sizes))}

    def part(k: int) -> LazyTensor:
        return LazyTensor(shape[1:], ours.dtype, lambda: back.apply(ours.load(), sizes)[k])

    return {name: part(k) for k, name in enumerate(row.theirs)}


def _drops(table: Table, tensors: Tensors, config: GPTConfig) -> list[Drop]:
    """Return the tensors that should be redundant, each with its check."""
    drops = []
    for copy in table.copies:
        if config.tied and copy.name in tensors and copy.source in tensors:
            check = partial(same_tensor, tensors[copy.name], tensors[copy.source])
            drops.append(Drop(copy.name, f"a copy of {copy.source} (tied)", check))
    for buffer in table.derived:
        for name in layer_names(buffer.name, config.n_layers):
            if name in tensors:
                check = partial(_is_buffer, buffer, tensors[name], config)
                drops.append(Drop(name, "a buffer that follows from the config", check))
    return drops


def same_tensor(a: LazyTensor, b: LazyTensor) -> bool:
    """Return whether two tensors have the same shape, dtype and bits. Nothing is read if shape or dtype differ."""
    return a is b or ((a.shape, a.dtype) == (b.shape, b.dtype) and same_bits(a.load(), b.load()))


def _is_buffer(buffer: Derived, tensor: LazyTensor, config: GPTConfig) -> bool:
    return buffer.accepts(tensor) if buffer.accepts else _same_values(tensor, buffer.build(config))


def _same_values(tensor: LazyTensor, expected: LazyTensor) -> bool:
    """Return whether a buffer has the expected shape and values; masks are float, bool or uint8."""
    if tensor.shape != expected.shape:
        return False
    # The same number of elements of each: a mask of bytes is much larger as numbers.
    pairs = (chunks(t.load(), CHUNK_BYTES * t.dtype.itemsize) for t in (tensor, expected))
    with np.errstate(over="ignore", invalid="ignore"):
        return all(np.array_equal(found.astype(np.float32), wanted) for found, wanted in zip(*pairs, strict=True))


def _differences(expected: Mapping[str, Shape], tensors: Tensors, dropped: set[str]) -> list[str]:
    """Return all differences between tensors and the expected names, shapes and dtypes."""
    problems = [f"tensor {name} {shape} is missing" for name, shape in expected.items() if name not in tensors]
    for name, tensor in tensors.items():
        if name in dropped:
            continue
        if name not in expected:
            problems.append(f"tensor {name} {tensor.shape} is unexpected")
        elif tensor.shape != expected[name]:
            problems.append(f"tensor {name} has shape {tensor.shape} where the config asks for {expected[name]}")
        elif tensor.dtype not in DTYPES.values():
            problems.append(f"tensor {name} has dtype {tensor.dtype}, which is not a dtype of weights")
    return problems
