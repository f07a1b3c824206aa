"""Windows of a token stream, and the order in which training visits them."""

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
    """All windows of `context` tokens and the one that follows, every `stride` tokens.

    Attributes:
        tokens: the stream, (N,).
        context: tokens of a window that are read, T.
        stride: from the start of a window to that of the next.
    """

    def __init__(self, tokens: Tokens, context: int, stride: int | None = None) -> None:
        """Cut nothing yet.

        Raises:
            OptionError: there is not one whole window.
        """
        self.tokens, self.context, self.stride = tokens, context, stride or context
        if len(tokens) <= context:
            raise OptionError(
                f"there are {len(tokens):,} tokens, not enough for one window of {context} and the token after it; "
                f"give more text, lower the context length, or change the fraction for validation"
            )

    def __len__(self) -> int:
        return (len(self.tokens) - self.context - 1) // self.stride + 1

    def __getitem__(self, indices: Sequence[int]) -> Tensor:
        """Return some windows: (B, T + 1) int64."""
        starts = np.asarray(indices, np.int64) * self.stride
        places = starts[:, None] + np.arange(self.context + 1)
        return torch.from_numpy(self.tokens[places].astype(np.int64))


class Batches:
    """Which windows each step takes: every window once an epoch, in an order that follows from (seed, epoch) alone.

    Resuming therefore needs no state, and any number of processes can share out the steps of one. What does not fill
    the last step of an epoch is left out of it; another order, other windows.
    """

    def __init__(self, n_windows: int, batch_size: int, *, seed: int = 0, order: Order = "shuffled") -> None:
        """Take the number of windows and of those in a step."""
        self.n_windows, self.batch_size, self.seed, self.order = n_windows, min(batch_size, n_windows), seed, order
        self._epoch, self._indices = -1, np.zeros(0, np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Whole steps of an epoch."""
        return self.n_windows // self.batch_size

    def __getitem__(self, step: int) -> list[int]:
        """Return the windows of a step, counted from 0 over all epochs."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._indices = epoch, self._permutation(epoch)
        start = place * self.batch_size
        return [int(i) for i in self._indices[start : start + self.batch_size]]

    def share(self, step: int, rank: int, size: int, micro_batch_size: int) -> list[list[int]]:
        """Return the windows of a step that are one process's, cut into what it computes at once.

        All processes get as many parts, since they exchange gradients after the last. Where the windows do not come out
        even, the last part of some has one more.

        Args:
            step: counted from 0.
            rank: of the process.
            size: number of processes, at most batch_size.
            micro_batch_size: windows of a part.
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
        """What the order depends on beside (seed, epoch): nothing, but for the book's, which torch's generator drew."""
        return {"epoch": self._epoch, "indices": self._indices.tolist()} if self.order == "book" else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state()."""
        if state:
            self._epoch, self._indices = state["epoch"], np.array(state["indices"], np.int64)


def book_permutation(n: int) -> np.ndarray[Any, Any]:
    """The order of one pass over torch's shuffling DataLoader, drawn from torch's global generator as it draws.

    The book's figures depend on it: a pass takes a base seed for workers that are not there, then the sampler's seed.
    """
    draw_base_seed()
    seed = int(torch.empty((), dtype=torch.int64).random_().item())
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()


def draw_base_seed() -> None:
    """Take from torch's global generator what every pass over a DataLoader takes, shuffled or not."""
    torch.empty((), dtype=torch.int64).random_()
