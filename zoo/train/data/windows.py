"""Windows of a token stream and the order in which training visits them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.errors import OptionError
from zoo.train.data.tokens import Tokens

Order = Literal["shuffled", "sequential", "book"]
ORDERS: tuple[Order, ...] = ("shuffled", "sequential", "book")


class Windows:
    """All windows of `context` tokens plus the following token, one every `stride` tokens.

    Attributes:
        tokens: The token stream, (N,).
        context: Input tokens per window, T.
        stride: Tokens from the start of one window to the start of the next.
    """

    def __init__(self, tokens: Tokens, context: int, stride: int | None = None) -> None:
        """Set the tokens, the context and the stride; windows are cut when they are accessed.

        Raises:
            OptionError: There are not enough tokens for one window.
        """
        self.tokens, self.context, self.stride = tokens, context, stride or context
        if len(tokens) <= context:
            raise OptionError(
                f"there are {len(tokens):,} tokens, not enough for one window of {context} tokens and its target; "
                f"give more text, a shorter context or another validation fraction"
            )

    def __len__(self) -> int:
        return (len(self.tokens) - self.context - 1) // self.stride + 1

    def __getitem__(self, indices: Sequence[int]) -> Tensor:
        """Return the windows with these indices, (B, T + 1) int64."""
        starts = np.asarray(indices, np.int64) * self.stride
        places = starts[:, None] + np.arange(self.context + 1)
        return torch.from_numpy(self.tokens[places].astype(np.int64))


class Batches:
    """The windows of each step: every window once per epoch, in an order that depends only on (seed, epoch).

    Resuming therefore needs no state, and the windows of a step can be distributed among any number of processes.
    Leftover windows at the end of an epoch are dropped; which ones depends on the shuffle.
    """

    def __init__(self, n_windows: int, batch_size: int, *, seed: int = 0, order: Order = "shuffled") -> None:
        """Set the number of windows and the number per step."""
        self.n_windows, self.batch_size, self.seed, self.order = n_windows, min(batch_size, n_windows), seed, order
        self._epoch, self._indices = -1, np.zeros(0, np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """The number of complete steps per epoch."""
        return self.n_windows // self.batch_size

    def __getitem__(self, step: int) -> list[int]:
        """Return the indices of the windows of a step, counted from 0 over all epochs."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._indices = epoch, self._permutation(epoch)
        start = place * self.batch_size
        return [int(i) for i in self._indices[start : start + self.batch_size]]

    def share(self, step: int, rank: int, size: int, micro_batch_size: int) -> list[list[int]]:
        """Return one process's windows of a step, split into micro-batches.

        All processes get the same number of micro-batches, because they exchange gradients after the last one. If the
        windows do not divide evenly, the last micro-batch of some processes has one more window.

        Args:
            step: Step, counted from 0.
            rank: Rank of the process.
            size: Number of processes, at most batch_size.
            micro_batch_size: Windows per micro-batch.
        """
        mine = self[step][rank::size]
        n_parts = -(-(self.batch_size // size) // micro_batch_size)
        starts = [i * micro_batch_size for i in range(n_parts)]
        return [mine[start:end] for start, end in zip(starts, [*starts[1:], len(mine)], strict=True)]

    def _permutation(self, epoch: int) -> np.ndarray[Any, Any]:
        if self.order == "sequential":
            return np.arange(self.n_windows)
        if self.order == "book":
            return book_permutation(self.n_windows)
        return np.random.default_rng((self.seed, epoch)).permutation(self.n_windows)

    def state(self) -> dict[str, Any]:
        """Return the state of the order: empty, except for the book's order, which is drawn from torch's generator."""
        return {"epoch": self._epoch, "indices": self._indices.tolist()} if self.order == "book" else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state that state() returned."""
        if state:
            self._epoch, self._indices = state["epoch"], np.array(state["indices"], np.int64)


def book_permutation(n: int) -> np.ndarray[Any, Any]:
    """Draw the order of one epoch from torch's global generator as torch's shuffling DataLoader does.

    The book's numbers depend on it: each epoch first draws a base seed for workers, even without workers, and then the
    sampler's seed.
    """
    draw_base_seed()
    seed = int(torch.empty((), dtype=torch.int64).random_().item())
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()


def draw_base_seed() -> None:
    """Draw from torch's global generator what every pass over a DataLoader draws, shuffled or not."""
    torch.empty((), dtype=torch.int64).random_()
