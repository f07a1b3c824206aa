"""What a conversion will do, worked out from names, shapes and dtypes before a byte of output is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.core.tensors import DTYPES, LazyTensor, Tensors, get_dtype
from zoo.errors import CannotHold, OptionError, UnknownName
from zoo.formats.base import Checkpoint, Format, WriteOptions
from zoo.formats.content_hash import PADDED, unpadded
from zoo.formats.opening import open_path
from zoo.formats.registry import get_format
from zoo.formats.rules import Drop, to_theirs
from zoo.models.gpt2.config import GPTConfig


@dataclass(frozen=True)
class Step:
    """One parameter's way: from the source's names to the target's.

    Attributes:
        sources: name and shape of each source tensor.
        operation: patterns of axes, source to zoo and zoo to target; "copy" where nothing moves.
        ours: the parameter.
        targets: name and shape of each target tensor.
        dtype: of the source, and of the target if it is cast ("float32 -> bfloat16").
    """

    sources: dict[str, tuple[int, ...]]
    operation: str
    ours: str
    targets: dict[str, tuple[int, ...]]
    dtype: str


@dataclass(frozen=True)
class Plan:
    """A conversion that could be run.

    Attributes:
        source_format: what reads.
        source: the opened checkpoint.
        ours: its tensors in zoo's names and orientation, cast if asked for.
        drops: source tensors that are not carried over, and why.
        target_format: what writes.
        target: what it will write.
        options: how; on_bytes is put in when the plan runs.
        notes: sentences about what is left behind or assumed.
        unheld: what of the vocabulary and the special tokens has no place; among the notes, too.
        dtype: that every tensor is cast to; None where each keeps its own.
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

    @property
    def config(self) -> GPTConfig:
        """The config of the target; the source's, but for rows of padding."""
        return self.target.config

    @property
    def nbytes(self) -> int:
        """Bytes of tensors that will be written."""
        nbytes, encoding = self.target_format.nbytes, self.options.encoding
        return sum(nbytes(name, tensor, encoding) for name, tensor in self.target.tensors.items())

    def casts(self) -> dict[str, int]:
        """Count the tensors whose dtype changes, by "from -> to"."""
        counts: dict[str, int] = {}
        for step in self.steps():
            if " -> " in step.dtype:
                counts[step.dtype] = counts.get(step.dtype, 0) + 1
        return counts

    @property
    def lossless(self) -> bool:
        """Whether every value, token and special token survives, in the same or a wider dtype.

        Rows of padding count as values unless they are all zero.
        """
        if self.options.encoding or self.unheld:
            return False
        return all(_widens(*cast.split(" -> ")) for cast in self.casts()) and not self.padding_has_values()

    def padding_has_values(self) -> bool:
        """Whether rows of padding that are left out hold anything but zeros."""
        n = self.config.vocab_rows
        if n == self.source.config.vocab_rows:
            return False
        source, _ = self.source_format.to_ours(self.source)
        return any(bool(np.any(source[name].load()[n:] != 0)) for name in PADDED if name in source)

    def steps(self) -> Iterator[Step]:
        """Describe what happens to each parameter, in the order of the model."""
        read = {row.ours: row for row in self.source_format.table.rows(self.source.config)}
        write = {row.ours: row for row in self.target_format.table.rows(self.config)}
        source_shapes = self.source_format.table.shapes(self.source.config)
        target_shapes = self.target_format.table.shapes(self.config)
        for ours, tensor in self.ours.items():
            before, after = read[ours], write[ours]
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
        """Return the whole plan as plain JSON values."""
        return {
            "source": str(self.source.path),
            "source_format": self.source_format.name,
            "target_format": self.target_format.name,
            "config": self.config.to_dict(),
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
        """List the target's tensors that follow from others: masks, and the copy of a tied head."""
        parameters = self.target_format.table.shapes(self.config)
        return [name for name in self.target.tensors if name not in parameters]


def plan_path(
    path: Path | str,
    to: str,
    *,
    format: str | None = None,
    size: str | GPTConfig | None = None,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
) -> Plan:
    """Plan the conversion of the checkpoint at a path; zoo.make_plan describes arguments and errors."""
    target_format = get_format(to)
    source_format, source = open_path(path, format=format, size=size)
    ours, drops = source_format.to_ours(source)
    options = _options(target_format, dtype, max_shard_bytes)
    cast = get_dtype(dtype) if dtype and not options.encoding else None
    if cast is not None:
        ours = {name: tensor.astype(cast) for name, tensor in ours.items()}
    config, ours = trimmed(target_format, source.config, ours)
    _check_target(target_format, config, ours)
    theirs = to_theirs(target_format.table, ours, config)
    target = Checkpoint(path=Path(), config=config, tensors=theirs, vocabulary=source.vocabulary)
    unheld = target_format.unheld(target)
    notes = [*source.notes, *target_format.notes(target), *unheld]
    if n := source.config.vocab_rows - config.vocab_rows:
        notes.append(f"{n} rows of padding, which are not tokens, are left out")
    return Plan(source_format, source, ours, drops, target_format, target, options, notes, unheld, cast)


def trimmed(target: Format, config: GPTConfig, ours: Tensors) -> tuple[GPTConfig, dict[str, LazyTensor]]:
    """Leave out rows of padding, unless the target keeps them apart from tokens.

    Other programs would take the rows for tokens: zeros give logits of 0, which win where all others are negative.
    """
    if target.pads or config.vocab_rows == config.vocab_size:
        return config, dict(ours)
    return config.replace(vocab_rows=0), {name: unpadded(name, tensor, config) for name, tensor in ours.items()}


def _options(target: Format, dtype: str | None, max_shard_bytes: int | None) -> WriteOptions:
    if not target.writes:
        raise OptionError(f"zoo reads {target.name}, but does not write it; `zoo formats` shows what it writes")
    if max_shard_bytes is not None and not target.shards:
        raise OptionError(f"{target.name} is one file; --max-shard-size is for formats that shard")
    if dtype and dtype not in DTYPES and dtype not in target.encodings:
        raise UnknownName(f"dtype of {target.name}", dtype, (*target.dtypes, *target.encodings))
    encoding = dtype if dtype in target.encodings else None
    return WriteOptions(encoding=encoding or "", max_shard_bytes=max_shard_bytes)


def _check_target(target: Format, config: GPTConfig, ours: Tensors) -> None:
    reasons = target.cannot_hold(config)
    dtypes = sorted({str(tensor.dtype) for tensor in ours.values()} - set(target.dtypes))
    reasons += [f"it does not store {dtype} (only {', '.join(target.dtypes)}; see --dtype)" for dtype in dtypes]
    if reasons:
        raise CannotHold(f"the format {target.name} cannot hold this model: {'; '.join(reasons)}")


def _widens(before: str, after: str) -> bool:
    return np.can_cast(DTYPES[before], DTYPES[after], "safe")
