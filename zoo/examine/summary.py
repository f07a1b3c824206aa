"""The data of `zoo inspect`'s pages and plots: facts about a checkpoint and statistics of every tensor."""

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
from zoo.models.gpt2.config import GPTConfig
from zoo.models.registry import Size

KINDS = ("attn.qkv.weight", "attn.out.weight", "mlp.up.weight", "mlp.down.weight")
"""The matrices of a block whose norms and histograms are plotted layer by layer."""


@dataclass(frozen=True)
class Measured:
    """A parameter in zoo's names with its statistics.

    Attributes:
        tensor: Its shape and dtype.
        numbers: Its statistics.
        bins: Its histogram; [] if not requested.
    """

    tensor: LazyTensor
    numbers: Statistics
    bins: list[int]

    @property
    def rms(self) -> float:
        """The root mean square of the finite values; 0 if there are none."""
        return 0.0 if math.isnan(self.numbers.norm) else self.numbers.norm / math.sqrt(max(1, self.tensor.size))


@dataclass(frozen=True)
class Report:
    """A report on a checkpoint that was read completely.

    Attributes:
        path: Path of the checkpoint.
        format: Name of its format.
        config: Config of the model.
        facts: Other known facts by name: provenance, vocabulary, notes.
        parameters: Parameters by zoo's names.
        mapping: Rows of (names in the format, operation, zoo's name).
        problem: Reason why the tensors do not fit the config; parameters then have the format's names.
    """

    path: Path
    format: str
    config: GPTConfig
    facts: dict[str, Any]
    parameters: dict[str, Measured]
    mapping: list[tuple[str, str, str]]
    problem: str = ""

    def layers(self, kind: str) -> list[Measured]:
        """Return one of KINDS for every block, in order."""
        names = (name for name in self.parameters if name.startswith("blocks.") and name.endswith(kind))
        return [self.parameters[name] for name in names]

    @property
    def nbytes(self) -> int:
        """The number of bytes of all parameters."""
        return sum(each.tensor.nbytes for each in self.parameters.values())


def make_report(
    path: Path,
    *,
    format: str | None = None,
    size: Size | None = None,
    on_tensor: Callable[[int, int], None] | None = None,
) -> Report:
    """Read a complete checkpoint, tensor by tensor.

    Args:
        path: File or directory.
        format: Name of its format; None recognises it by its content.
        size: Expected model.
        on_tensor: Called as on_tensor(tensors done, total tensors).

    Raises:
        ZooError: As for open_checkpoint, or a tensor cannot be read.
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
    """Return what is known of a checkpoint in addition to config and tensors, as plain JSON values."""
    return {
        "prefix": opened.prefix,
        "vocabulary": "none" if not opened.vocabulary else "GPT-2's" if opened.vocabulary.is_gpt2 else "its own",
        "provenance": dict(opened.provenance),
        "notes": list(opened.notes),
    }


def in_layer_order(found: Format, opened: Checkpoint) -> dict[str, LazyTensor]:
    """Return a checkpoint's tensors, in its own names, in the order of the model; others last."""
    theirs = {row.ours: row.theirs for row in found.table.rows(opened.config)}
    names = [name for ours in opened.config.parameter_shapes() for name in theirs[ours] if name in opened.tensors]
    return {name: opened.tensors[name] for name in dict.fromkeys((*names, *opened.tensors))}


def _mapping(found: Format) -> list[tuple[str, str, str]]:
    rows = []
    for rule in found.table.rules:
        theirs = (rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs
        rows.append((", ".join(theirs), rule.how or "same", rule.ours))
    return rows
