"""The plan of a conversion: what happens to each tensor, and what is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from zoo.core.html import html_table
from zoo.core.tensors import DTYPES, Tensors
from zoo.formats.base import Checkpoint, Format, WriteOptions
from zoo.formats.content_hash import PADDED
from zoo.formats.rules import Drop


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
        stored = {
            id(tensor) if self.target_format.shares else name: name for name, tensor in self.target.tensors.items()
        }
        return sum(nbytes(name, self.target.tensors[name], encoding) for name in stored.values())

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

    @cached_property
    def _steps(self) -> list[Step]:
        return list(self._make_steps())

    def steps(self) -> Iterator[Step]:
        """Yield the steps of all parameters, in the order of the model."""
        yield from self._steps

    def _make_steps(self) -> Iterator[Step]:
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


def _widens(before: str, after: str) -> bool:
    return np.can_cast(DTYPES[before], DTYPES[after], "safe")
