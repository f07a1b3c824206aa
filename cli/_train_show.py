"""What `zoo train` shows while it runs: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from zoo.cli._show import is_terminal, note, printable, say

if TYPE_CHECKING:
    from rich.progress import Progress

    from zoo.train.run.metrics import Row
    from zoo.train.run.tensorboard import TensorBoard
    from zoo.train.run.trainer import Trainer
    from zoo.train.run.watcher import Watcher

_LINE_SECONDS = 10.0  # between lines where there is no terminal


class Show:
    """Shows a run on stderr. A context manager."""

    def __init__(self, options: dict[str, Any], *, quiet: bool) -> None:
        from zoo.train.run.watcher import Watcher

        self._quiet, self._tensorboard = quiet, options["tensorboard"]
        self._stack = ExitStack()
        self._bar: Progress | None = None
        self._board: TensorBoard | None = None
        self._steps, self._said, self._val = 0, 0.0, ""
        self.watcher: Watcher = Watcher(self._on_row, self._on_sample)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def note(self, text: str) -> None:
        """Print a remark."""
        if not self._quiet:
            note(text)

    def follow(self, trainer: Trainer, path: Path) -> str:
        """Run a trainer, and return why it ended."""
        self._steps = trainer.steps
        if self._tensorboard and not self._quiet:
            from zoo.train.run.tensorboard import TensorBoard

            self._board = self._stack.enter_context(TensorBoard(path, from_step=trainer.state.step))
        if not self._quiet:
            n = trainer.config
            say(
                f"{path}: {trainer.model.config.n_parameters:,} parameters, {len(trainer.windows.tokens):,} tokens, "
                f"{trainer.steps:,} steps of {trainer.batches.batch_size} x {n.context} tokens, {n.dtype}",
                err=True,
            )
        if not self._quiet and is_terminal(sys.stderr):
            self._open_bar(trainer)
        try:
            return trainer.run()
        finally:
            self._stack.close()  # the bar ends before anything else is printed

    def _open_bar(self, trainer: Trainer) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(),
        )
        self._bar = self._stack.enter_context(Progress(*columns, console=Console(stderr=True)))
        self._bar.add_task("", total=trainer.steps, completed=trainer.state.step)

    def _on_row(self, row: Row) -> None:
        if self._board:
            self._board.write(row)
        if self._quiet:
            return
        if row["val_loss"] is not None:
            self._val = f" val {row['val_loss']:.3f}"
        text = f"loss {row['train_loss']:.3f}{self._val} lr {row['lr']:.1e} {row['tokens_per_s']:,.0f} tokens/s"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=row["step"], description=text)
        elif row["val_loss"] is not None or row["seconds"] - self._said > _LINE_SECONDS or row["step"] == self._steps:
            self._said = row["seconds"]
            left = (self._steps - row["step"]) * row["seconds"] / row["step"]
            say(f"step {row['step']:,}/{self._steps:,} {text}, {left / 60:.1f} min left", err=True)

    def _on_sample(self, step: int, text: str) -> None:
        if not self._quiet:
            shown = f"sample after step {step:,}: {' '.join(text.split())}"
            if self._bar:
                self._bar.console.print(printable(shown), markup=False, highlight=False, soft_wrap=True)
            else:
                say(shown, err=True)
