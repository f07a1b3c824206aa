"""What the decode loop asks of a model: the torch module and the C engine both have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.models.gpt2.config import GPTConfig
from zoo.text.tokenizer import Tokenizer


class Cache(Protocol):
    """Keys and values of B rows, each with a length of its own."""

    def truncate(self, length: int, row: int = 0) -> None:
        """Drop a row's tokens from `length` on."""

    def grow(self, room: int) -> None:
        """Give every row room for this many tokens, at least, and keep what is cached."""

    def copy_row(self, source: int, target: int) -> None:
        """Replace the tokens of a row by those of another."""


class Backend(Protocol):
    """A model that computes logits after new tokens."""

    @property
    def config(self) -> GPTConfig:
        """The architecture."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns text into this model's ids."""

    def new_cache(self, batch: int, room: int) -> Any:
        """Return an empty Cache of B rows with room for some tokens each, which only this backend reads."""

    def logits(
        self, ids: Sequence[Sequence[int]], cache: Any, rows: Sequence[int], last: Sequence[int]
    ) -> list[NDArray[np.float32]]:
        """Add new tokens to rows of a cache and compute the logits after the last ones.

        Args:
            ids: B lists of new tokens.
            cache: made by new_cache.
            rows: row of the cache for each list, all different.
            last: number of tokens at the end of each list whose logits are wanted: 1, or all of the list.

        Returns:
            for each list its logits, (last, V) float32, without columns of padding.
        """
