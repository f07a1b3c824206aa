"""What a contender is: one way to run a model, behind one method."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

Taken = tuple[float, int]
"""time.perf_counter() after a token, and its id."""


class Contender:
    """One way to run a model, alone in a process of its own.

    Attributes:
        packages: any of which must be importable.
        distribution: what pip installs it from.
        format: of the files that it reads.
        dtypes: for each of zoo's precisions that it has, the dtype its file is converted to.
        batches: whether it continues several prompts at once.
        nbytes: of weights that a token reads; None where that is not known.
        cached_nbytes: of keys and values that a token reads of each one before it; likewise.
    """

    packages: ClassVar[tuple[str, ...]]
    distribution: ClassVar[str]
    format: ClassVar[str]
    dtypes: ClassVar[dict[str, str]]
    batches: ClassVar[bool] = True
    nbytes: int | None = None
    cached_nbytes: int | None = None

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        """Load a file."""

    def generate(self, prompts: list[list[int]], n: int) -> list[Taken]:
        """Continue prompts (B, T) greedily by n tokens each; return when each came, and its id in the first row."""
        raise NotImplementedError
