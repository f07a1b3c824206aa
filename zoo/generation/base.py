"""The interface between the decode loop and a model, which the torch module and the C engine implement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.models.gpt2.config import GPTConfig
from zoo.text.tokenizer import Tokenizer


class Cache(Protocol):
    """Keys and values of B rows, which may have different lengths."""

    def truncate(self, length: int, row: int = 0) -> None:
        """Drop a row's tokens from `length` on."""

    def grow(self, room: int) -> None:
        """Make room for at least this many tokens in every row; cached tokens are kept."""

    def copy_row(self, source: int, target: int) -> None:
        """Replace a row's tokens with those of another row."""


class Backend(Protocol):
    """A model that computes logits after new tokens."""

    @property
    def config(self) -> GPTConfig:
        """The architecture."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of this model."""

    def new_cache(self, batch: int, room: int) -> Any:
        """Return an empty Cache of B rows with `room` tokens each, for this backend only."""

    def logits(
        self, ids: Sequence[Sequence[int]], cache: Any, rows: Sequence[int], last: Sequence[int]
    ) -> list[NDArray[np.float32]]:
        """Add new tokens to rows of a cache and compute the logits after the last ones.

        Args:
            ids: New tokens, B lists.
            cache: Cache from new_cache.
            rows: Row of the cache for each list, all different.
            last: Number of tokens at the end of each list whose logits are returned: 1, or the length of the list.

        Returns:
            The logits of each list, (last, V) float32, without the columns of padding.
        """
