"""What `zoo inspect` shows of a checkpoint in pages and pictures: facts, and numbers about every tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.core.statistics import Statistics, histogram, statistics
from zoo.core.tensors import LazyTensor
from zoo.errors import ZooError
from zoo.formats.base import Checkpoint, Format
from zoo.formats.opening import open_path
from zoo.formats.vocabulary import describe
from zoo.models.gpt2.config import GPTConfig

KINDS = ("attn.qkv.weight", "attn.out.weight", "mlp.up.weight", "mlp.down.weight")
"""The matrices of a block, of which norms and histograms are drawn layer by layer."""


@dataclass(frozen=True)
class Measured:
    """One parameter in zoo's names, with numbers about it.

    Attributes:
        tensor: shape and dtype.
        numbers: about its values.
        bins: its histogram; [] where none was asked for.
    """

    tensor: LazyTensor
    numbers: Statistics
    bins: list[int]

    @property
    def rms(self) -> float:
        """Root of the mean square of the finite values; 0 where there are none."""
        return 0.0 if math.isnan(self.numbers.norm) else self.numbers.norm / math.sqrt(max(1, self.tensor.size))


@dataclass(frozen=True)
class Report:
    """A checkpoint, read once from end to end.

    Attributes:
        path: of it.
        format: its name.
        config: of the model.
        facts: what else is known, by name: provenance, vocabulary, notes.
        parameters: by zoo's names.
        mapping: rows of (names in the format, operation, zoo's name).
        problem: why its tensors are not those of its config; then parameters are in the format's own names.
    """

    path: Path
    format: str
    config: GPTConfig
    facts: dict[str, Any]
    parameters: dict[str, Measured]
    mapping: list[tuple[str, str, str]]
    problem: str = ""

    def layers(self, kind: str) -> list[Measured]:
        """Return one of KINDS in every block, from the first to the last."""
        names = (name for name in self.parameters if name.startswith("blocks.") and name.endswith(kind))
        return [self.parameters[name] for name in names]

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters."""
        return sum(each.tensor.nbytes for each in self.parameters.values())


def make_report(
    path: Path,
    *,
    format: str | None = None,
    size: str | GPTConfig | None = None,
    on_tensor: Callable[[int, int], None] | None = None,
) -> Report:
    """Read a whole checkpoint, one tensor after the other.

    Args:
        path: file or directory.
        format: its format's name; None recognises it.
        size: the model it must be.
        on_tensor: called as on_tensor(tensors done, tensors in all).

    Raises:
        ZooError: as open_checkpoint; or a tensor cannot be read.
    """
    found, opened = open_path(path, format=format, size=size)
    try:
        tensors, problem = found.to_ours(opened)[0], ""
    except ZooError as error:
        tensors, problem = dict(opened.tensors), str(error)
    parameters = {}
    for i, (name, tensor) in enumerate(tensors.items(), start=1):
        numbers = statistics(tensor)
        wanted = name.endswith(KINDS) or name == "tok_emb.weight"
        parameters[name] = Measured(tensor, numbers, histogram(tensor, numbers) if wanted else [])
        if on_tensor:
            on_tensor(i, len(tensors))
    return Report(path, found.name, opened.config, facts(opened), parameters, _mapping(found), problem)


def facts(opened: Checkpoint) -> dict[str, Any]:
    """What is known of a checkpoint beside config and tensors, as plain JSON values."""
    return {
        "prefix": opened.prefix,
        "vocabulary": "GPT-2's" if opened.vocabulary.is_gpt2 else describe(opened.vocabulary),
        "provenance": dict(opened.provenance),
        "notes": list(opened.notes),
    }


def _mapping(found: Format) -> list[tuple[str, str, str]]:
    rows = []
    for rule in found.table.rules:
        theirs = (rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs
        rows.append((", ".join(theirs), rule.how or "same", rule.ours))
    return rows
