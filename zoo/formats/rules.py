"""Layouts as tables of rules: the name and orientation of each parameter in a format. Tables work in both directions.

A rule has a parameter's name in the format, its name in zoo, and the pattern of its axes:

    Rule("h.{i}.attn.c_attn.weight", "blocks.{i}.attn.qkv.weight", "i o -> o i")

It is a transpose from left to right when a checkpoint is read and from right to left when it is written, so no inverse
has to be written. Several names on the left are stacked along a new first axis, n. "{i}" is the layer. Lengths of axes
that patterns may take from the config: n = 3 (query, key, value), h = heads, d = head size.

Nothing is read here: the results are lazy tensors that are rearranged when they are loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from zoo.core.pattern import Pattern, Shape, parse
from zoo.core.tensors import CHUNK_BYTES, DTYPES, Array, LazyTensor, Tensors, chunks, same_bits
from zoo.errors import CheckpointMismatch
from zoo.models.gpt2.config import GPTConfig


@dataclass(frozen=True)
class Rule:
    """One parameter: its names in the format, its name in zoo, and the pattern from the former to the latter ("" =
    same).
    """

    theirs: str | tuple[str, ...]
    ours: str
    how: str = ""


def weight_and_bias(
    theirs: str, ours: str, how: str = "", *, weight: str = ".weight", bias: str = ".bias", bias_how: str = ""
) -> tuple[Rule, Rule]:
    """Return the rules of a layer with a weight and a bias.

    Args:
        theirs: Name of the layer in the format.
        ours: Name of the layer in zoo.
        how: Pattern of the weight.
        weight: Suffix of the weight's name in the format.
        bias: Suffix of the bias's name in the format.
        bias_how: Pattern of the bias.
    """
    return Rule(f"{theirs}{weight}", f"{ours}.weight", how), Rule(f"{theirs}{bias}", f"{ours}.bias", bias_how)


@dataclass(frozen=True)
class Copy:
    """A copy of the token embedding under the head's name, in formats that store tied heads twice.

    Attributes:
        name: Name of the copy.
        source: Name of the copied tensor in the format.
        written: Whether the copy is written. When read, it is always compared and dropped.
    """

    name: str
    source: str
    written: bool


@dataclass(frozen=True)
class Derived:
    """A buffer that follows from the config, such as a causal mask: compared when read, rebuilt when written.

    Attributes:
        name: Name, which may contain "{i}".
        build: Returns the buffer in float32. Masks are compared by value, in any dtype.
        written: Whether it is written, unless it is empty.
    """

    name: str
    build: Callable[[GPTConfig], LazyTensor]
    written: bool


@dataclass(frozen=True)
class Row:
    """A rule for one layer: "{i}" is replaced, names are tuples, the pattern is parsed."""

    theirs: tuple[str, ...]
    ours: str
    how: str

    @property
    def pattern(self) -> Pattern | None:
        """The parsed pattern from the format to zoo; None if the tensor is the same."""
        return parse(self.how) if self.how else None


@dataclass(frozen=True)
class Drop:
    """A source tensor that is dropped, and the check that nothing is lost.

    Attributes:
        name: Name in the source.
        why: Reason, as a clause for messages.
        redundant: Reads the tensor and returns whether `why` is true.
    """

    name: str
    why: str
    redundant: Callable[[], bool]


@dataclass(frozen=True)
class Table:
    """The layout of a format."""

    rules: tuple[Rule, ...]
    copies: tuple[Copy, ...] = ()
    derived: tuple[Derived, ...] = ()

    def rows(self, config: GPTConfig) -> list[Row]:
        """Return the rules as rows for this config, one per layer.

        Rules for parameters that the config does not have (a bias, an untied head) give no row.
        """
        wanted = config.parameter_shapes()
        rows = [row for rule in self.rules for row in _spell_out(rule, config.n_layers) if row.ours in wanted]
        covered = [row.ours for row in rows]
        names = [name for row in rows for name in row.theirs]
        if sorted(covered) != sorted(wanted) or len(set(names)) != len(names):
            raise AssertionError("a table must name every parameter once")  # a mistake of the format's author
        return rows

    def shapes(self, config: GPTConfig) -> dict[str, Shape]:
        """Return name and shape of every parameter in the format's layout, without copies and buffers."""
        ours, sizes = config.parameter_shapes(), _sizes(config)
        shapes: dict[str, Shape] = {}
        for row in self.rows(config):
            shape = row.pattern.reversed().shape(ours[row.ours], sizes) if row.pattern else ours[row.ours]
            shapes.update({name: shape[1:] if len(row.theirs) > 1 else shape for name in row.theirs})
        return shapes


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
            theirs.update(dict.fromkeys(_layers(buffer.name, config.n_layers), tensor))
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


def _layers(name: str, n_layers: int) -> list[str]:
    return [name.replace("{i}", str(i)) for i in range(n_layers)] if "{i}" in name else [name]


def _spell_out(rule: Rule, n_layers: int) -> Iterator[Row]:
    theirs = (rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs
    columns = [_layers(name, n_layers) for name in (*theirs, rule.ours)]
    for *names, ours in zip(*columns, strict=True):
        yield Row(tuple(names), ours, rule.how)


def _sizes(config: GPTConfig) -> dict[str, int]:
    return {"n": 3, "h": config.n_heads, "d": config.head_size}


def _gather(row: Row, parts: list[LazyTensor], config: GPTConfig) -> LazyTensor:
    """Combine a row's source tensors into zoo's tensor."""
    pattern, sizes = row.pattern, _sizes(config)
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
    back, sizes = row.pattern.reversed(), _sizes(config)
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
        for name in _layers(buffer.name, config.n_layers):
            if name in tensors:
                check = partial(_same_values, tensors[name], buffer.build(config))
                drops.append(Drop(name, "a buffer that follows from the config", check))
    return drops


def same_tensor(a: LazyTensor, b: LazyTensor) -> bool:
    """Return whether two tensors have the same shape, dtype and bits. Nothing is read if shape or dtype differ."""
    return (a.shape, a.dtype) == (b.shape, b.dtype) and same_bits(a.load(), b.load())


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
