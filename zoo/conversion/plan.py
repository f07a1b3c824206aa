"""Plan a conversion from names, shapes and dtypes, before a byte of output is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.conversion.adapt import cast_parameter, change_activation, drop_padding, fill_biases, widening
from zoo.conversion.target import check_target, make_options
from zoo.core.html import html_table
from zoo.core.tensors import DTYPES, Tensors, get_dtype
from zoo.errors import CheckpointMismatch
from zoo.formats.base import Checkpoint, Format, WriteOptions
from zoo.formats.content_hash import PADDED
from zoo.formats.mapping import to_theirs
from zoo.formats.opening import open_path
from zoo.formats.registry import get_format
from zoo.formats.rules import Drop
from zoo.models.registry import Size


@dataclass(frozen=True)
class Step:
    """The conversion of one parameter from the source's names to the target's.

    Attributes:
        sources: Name and shape of each source tensor.
        operation: Axis patterns, source to zoo and zoo to target; "copy" if nothing moves.
        ours: Name of the parameter in zoo.
        targets: Name and shape of each target tensor.
        dtype: Dtype of the source, and of the target if it is cast ("float32 -> bfloat16").
    """

    sources: dict[str, tuple[int, ...]]
    operation: str
    ours: str
    targets: dict[str, tuple[int, ...]]
    dtype: str


@dataclass(frozen=True)
class Plan:
    """A conversion that can be run.

    Attributes:
        source_format: Format that reads.
        source: The opened checkpoint.
        ours: Its tensors in zoo's names and orientation, cast if requested.
        drops: Source tensors that are dropped, and why.
        target_format: Format that writes.
        target: The checkpoint that it will write.
        options: Options for writing; on_bytes is set when the plan runs.
        notes: Sentences about what is left out or assumed.
        unheld: Those notes that are about the vocabulary and the special tokens.
        dtype: Dtype that tensors are cast to; None keeps each tensor's own.
    """

    source_format: Format
    source: Checkpoint
    ours: Tensors
    drops: list[Drop]
    target_format: Format
    target: Checkpoint
    options: WriteOptions
    notes: list[str]
    unheld: list[str]
    dtype: np.dtype[np.generic] | None

    def __repr__(self) -> str:
        names = f"{self.source_format.name} -> {self.target_format.name}"
        return f"Plan({names}, {len(self.ours)} tensors, {self.nbytes:,} bytes, lossless={self.lossless})"

    def _repr_html_(self) -> str:
        rows = [(", ".join(s.sources), s.operation, ", ".join(s.targets), s.dtype) for s in self.steps()]
        return html_table(("source", "operation", "target", "dtype"), rows)

    @property
    def nbytes(self) -> int:
        """The number of tensor bytes that will be written."""
        nbytes, encoding = self.target_format.nbytes, self.options.encoding
        return sum(nbytes(name, tensor, encoding) for name, tensor in self.target.tensors.items())

    def casts(self) -> dict[str, int]:
        """The number of tensors whose dtype changes, by "from -> to"."""
        counts: dict[str, int] = {}
        for step in self.steps():
            if " -> " in step.dtype:
                counts[step.dtype] = counts.get(step.dtype, 0) + 1
        return counts

    @property
    def lossless(self) -> bool:
        """Whether all values, tokens and special tokens are preserved, in the same or a wider dtype.

        Padding rows that are left out count as values unless they are all zero.
        """
        return (
            self.source.exact
            and not self.options.encoding
            and not self.unheld
            and all(_widens(*cast.split(" -> ")) for cast in self.casts())
            and not self._loses_padding()
        )

    def _loses_padding(self) -> bool:
        """Whether padding rows that are left out hold anything but zeros."""
        n = self.target.config.vocab_rows
        if n == self.source.config.vocab_rows:
            return False
        source, _ = self.source_format.to_ours(self.source)
        return any(bool(np.any(source[name].load()[n:] != 0)) for name in PADDED if name in source)

    def steps(self) -> Iterator[Step]:
        """Yield the steps of all parameters, in the order of the model."""
        config = self.source.config
        read = {row.ours: row for row in self.source_format.table.rows(config)}
        write = {row.ours: row for row in self.target_format.table.rows(self.target.config)}
        source_shapes = self.source_format.table.shapes(config)
        target_shapes = self.target_format.table.shapes(self.target.config)
        for ours, before in read.items():
            tensor, after = self.ours[ours], write[ours]
            back = " -> ".join(side.strip() for side in reversed(after.how.split("->"))) if after.how else ""
            patterns = [pattern for pattern in (before.how, back) if pattern]
            same = before.how == after.how and len(before.theirs) == len(after.theirs)
            dtype = str(self.source.tensors[before.theirs[0]].dtype)
            yield Step(
                {name: source_shapes[name] for name in before.theirs},
                "copy" if same or not patterns else ", ".join(patterns),
                ours,
                {name: target_shapes[name] for name in after.theirs},
                dtype if dtype == str(tensor.dtype) else f"{dtype} -> {tensor.dtype}",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the complete plan as plain JSON values."""
        return {
            "source": str(self.source.path),
            "source_format": self.source_format.name,
            "target_format": self.target_format.name,
            "config": self.source.config.to_dict(),
            "prefix": self.source.prefix,
            "steps": [vars(step) for step in self.steps()],
            "dropped": {drop.name: drop.why for drop in self.drops},
            "added": self.added(),
            "bytes": self.nbytes,
            "encoding": self.options.encoding,
            "lossless": self.lossless,
            "notes": self.notes,
        }

    def added(self) -> list[str]:
        """List the target's tensors that follow from others: masks, the copy of a tied head, biases of zeros."""
        carried = {name for step in self.steps() for name in step.targets}
        return [name for name in self.target.tensors if name not in carried]


def plan_path(
    source: Path | str,
    to: str,
    *,
    format: str | None = None,
    size: Size | None = None,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
    activation: str | None = None,
    variant: str | None = None,
    strict: bool = False,
) -> Plan:
    """Work out a conversion without writing anything.

    Args:
        source: file or directory of any format, or the name of a model.
        to: name of the target format.
        format: of the source; None recognises it by its content.
        size: the model the source must be.
        dtype: to cast to, or one of the target's encodings; None keeps every tensor's own.
        max_shard_bytes: tensor bytes in a file at most; None writes one file.
        activation: as for zoo.convert.
        variant: as for zoo.convert.
        strict: as for zoo.convert.

    Raises:
        OptionError: the target is not written by zoo, or does not shard.
        UnknownName, FormatError, ConfigError: as open_checkpoint.
        CheckpointMismatch: names, shapes or dtypes are not those of the config; all differences are listed.
        CannotHold: the target has no place for this config or dtype.
    """
    get_format(to)  # a wrong name is refused before anything is opened
    source_format, checkpoint = open_path(source, format=format, size=size)
    checkpoint = change_activation(checkpoint, activation)
    return plan_checkpoint(
        source_format, checkpoint, to, dtype=dtype, max_shard_bytes=max_shard_bytes, variant=variant, strict=strict
    )


def plan_checkpoint(
    source_format: Format,
    source: Checkpoint,
    to: str,
    *,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
    variant: str | None = None,
    strict: bool = False,
) -> Plan:
    """Plan the conversion of an opened checkpoint; zoo.make_plan describes the other arguments and the errors."""
    if strict and source.left_behind:
        problems = [f"tensor {name} would be left behind, which strict=True forbids" for name in source.left_behind]
        raise CheckpointMismatch(source.path, problems)
    target_format = get_format(to)
    ours, drops = source_format.to_ours(source)
    name = source.path.stem if source.files else ""
    options = make_options(target_format, dtype, max_shard_bytes, variant, name)
    widened = list[str]()
    if dtype is None:
        cast, widened = widening(target_format, ours)
    else:
        cast = None if options.encoding else get_dtype(dtype)
    if cast is not None:
        ours = {name: cast_parameter(target_format, name, tensor, cast) for name, tensor in ours.items()}
    config, filled = source.config, list[str]()
    if not strict:
        config, ours, filled = fill_biases(target_format, config, ours)
    config, ours, dropped = drop_padding(target_format, config, ours)
    check_target(target_format, config, ours)
    theirs = to_theirs(target_format.layout(options.variant), ours, config)
    target = Checkpoint(path=Path(), config=config, tensors=theirs, vocabulary=source.vocabulary)
    unheld = target_format.unheld(target)
    notes = [*source.notes, *widened, *filled, *dropped, *target_format.notes(target), *unheld]
    return Plan(source_format, source, ours, drops, target_format, target, options, notes, unheld, cast)


def _widens(before: str, after: str) -> bool:
    return np.can_cast(DTYPES[before], DTYPES[after], "safe")
