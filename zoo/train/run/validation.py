"""Decide when a run evaluates its losses and on which windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from zoo.train.data.tokens import Tokens
from zoo.train.data.windows import Windows, book_permutation, draw_base_seed
from zoo.train.run.checkpoint import State
from zoo.train.settings import TrainConfig
from zoo.train.step.distributed import World
from zoo.train.step.evaluation import cover, evaluate
from zoo.train.step.optimization import split


@dataclass(frozen=True)
class Losses:
    """Losses in nats per token; None if not measured.

    Attributes:
        train: Loss of training text after the step (in the book's order only).
        val: Loss of validation text.
    """

    train: float | None = None
    val: float | None = None


class Validation:
    """Evaluates at the steps that the config specifies and keeps track of the best loss."""

    def __init__(self, train: Windows, val: Tokens | None, config: TrainConfig, here: World) -> None:
        """Set the data to evaluate on and the group of processes."""
        self._train, self._val, self._config, self._here = train, val, config, here

    def measure(self, state: State, steps: int, module: nn.Module) -> Losses:
        """Evaluate, if an evaluation is due.

        Args:
            state: Progress of the run after a step; its best loss is updated.
            steps: Total number of steps of the run.
            module: A LanguageModelLoss, or the result of World.wrap for one.
        """
        state.val_loss = None
        if self._config.order == "book":
            return self._as_book(state, module) if is_due(state.step - 1, self._config.eval_every) else Losses()
        if self._val is None or not (is_due(state.step, self._config.eval_every) or state.step == steps):
            return Losses()
        config = self._config
        batches = cover(self._val, config.context, batch_size=config.micro_batch_size, limit=config.eval_batches)
        loss = evaluate(module, batches, dtype=config.dtype, device=self._here.device, here=self._here).loss
        _note(state, loss)
        return Losses(val=loss)

    def _as_book(self, state: State, module: nn.Module) -> Losses:
        """Evaluate as the book does: the first batches of a shuffled pass over the training text and of one over the
        validation text, with the random numbers that each draws.
        """
        train = self._mean(module, self._train, book_permutation(len(self._train)).tolist())
        if self._val is None:
            return Losses(train)
        draw_base_seed()
        windows = Windows(self._val, self._config.context, self._config.stride)
        val = self._mean(module, windows, range(len(windows)))
        _note(state, val)
        return Losses(train, val)

    def _mean(self, module: nn.Module, windows: Windows, indices: Sequence[int]) -> float:
        size, limit = self._config.batch_size, self._config.eval_batches or len(indices)
        parts = [indices[i : i + size] for i in range(0, len(indices), size)][:limit]
        batches = (split(windows[part]) for part in parts)
        return evaluate(module, batches, dtype=self._config.dtype, device=self._here.device, here=self._here).loss


def is_due(step: int, every: int) -> bool:
    """Return whether something that happens every `every` steps (0: never) is due after this step."""
    return every > 0 and step % every == 0


def _note(state: State, loss: float) -> None:
    state.val_loss = loss
    if state.best_loss is None or loss < state.best_loss:
        state.best_loss, state.best_step, state.n_worse = loss, state.step, 0
    else:
        state.n_worse += 1
