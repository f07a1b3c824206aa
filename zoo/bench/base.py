"""The interface of a contender: one way to run a model, behind one method."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

Taken = tuple[float, int]
"""time.perf_counter() after a token, and the id of the token."""


class Contender:
    """One way to run a model, in its own process.

    Attributes:
        packages: Packages of which one must be importable.
        distribution: Distribution that pip installs it from.
        format: Format of the files that it reads.
        dtypes: Dtype that its file is converted to, for each supported precision of zoo.
        batches: Whether it can continue several prompts at once.
        nbytes: Bytes of weights that are read per token; None if unknown.
        cached_nbytes: Bytes of keys and values that are read per token and earlier token; None if unknown.
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
        """Continue prompts (B, T) greedily by n tokens; return the time of each token and its id in the first row."""
        raise NotImplementedError
