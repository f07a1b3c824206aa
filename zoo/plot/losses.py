"""Plot the losses of runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import FormatError, OptionError
from zoo.plot.figure import make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MANY = 200  # points of a curve above which its running mean is drawn as well
_WINDOW = 50  # window of the running mean: a curve's length divided by this


@dataclass(frozen=True)
class Run:
    """The metrics of one training run.

    Attributes:
        name: Name of its directory.
        rows: The rows of metrics.jsonl. Each is a JSON object that may have epoch (such as 1.5), tokens (seen so far),
            train_loss and val_loss (nats per token); other keys are ignored.
    """

    name: str
    rows: list[dict[str, Any]]

    @classmethod
    def read(cls, path: str | Path) -> Run:
        """Read the metrics of a run directory, or a metrics.jsonl file.

        A truncated last line, as in a run that is being written or was killed, is ignored.

        Raises:
            FormatError: There are no metrics, or they have no numbers.
        """
        path = Path(path)
        file = path / "metrics.jsonl" if path.is_dir() else path
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise FormatError(file, "cannot be read; give a run directory or its metrics.jsonl") from error
        rows = [row for i, line in enumerate(lines) if (row := _parse(file, i, line, is_last=i == len(lines) - 1))]
        if not rows:
            raise FormatError(file, "has no rows yet; there is nothing to plot before the first step")
        return cls((path if path.is_dir() else path.absolute().parent).resolve().name, rows)

    def curve(self, x: str, y: str) -> tuple[list[float], list[float]]:
        """Return the points for which both values are known."""
        points = [(row[x], row[y]) for row in self.rows if row.get(x) is not None and row.get(y) is not None]
        return [a for a, _ in points], [b for _, b in points]

    @property
    def tokens_per_epoch(self) -> float:
        """The number of tokens per epoch, from the last row; 0 if unknown."""
        last = self.rows[-1]
        epoch, tokens = last.get("epoch") or 0, last.get("tokens") or 0
        return tokens / epoch if epoch > 0 else 0.0


def _parse(file: Path, i: int, line: str, *, is_last: bool) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("no object")
        for key in ("epoch", "tokens", "train_loss", "val_loss"):
            if row.get(key) is not None:
                row[key] = float(row[key])
    except (ValueError, TypeError, RecursionError) as error:
        if is_last:
            return None
        raise FormatError(file, f"line {i + 1} is not a row of metrics ({error})") from error
    return row


def plot_losses(runs: Sequence[str | Path | Run], out: str | Path, *, force: bool = False) -> None:
    """Plot training and validation losses over epochs, with a second axis for the tokens seen, into a file.

    Runs whose epochs have different numbers of tokens are plotted over tokens only.

    Args:
        runs: Run directories.
        out: A .png, .pdf or .svg file.
        force: Whether to replace an existing file.

    Raises:
        OptionError: There are no runs, or the suffix of out is not supported.
        FormatError: A run has no metrics.
        OutputError: out exists or cannot be written.
        MissingPackage: matplotlib is not installed.
    """
    opened = [run if isinstance(run, Run) else Run.read(run) for run in runs]
    if not opened:
        raise OptionError("there are no runs to plot; give at least one run directory")
    figure, save = make_figure(out, 6.4 if len(opened) == 1 else 8.0, 4.2)
    axes = figure.subplots()
    sizes = [run.tokens_per_epoch for run in opened]
    by_epoch = min(sizes) > 0 and max(sizes) <= 1.01 * min(sizes)
    for i, run in enumerate(opened):
        _draw_run(axes, run, "epoch" if by_epoch else "tokens", i, alone=len(opened) == 1)
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.25)
    # outside the axes, where many names would cover the curves
    beside: dict[str, Any] = {} if len(opened) == 1 else {"loc": "upper left", "bbox_to_anchor": (1.01, 1)}
    axes.legend(frameon=False, **beside)
    if by_epoch:
        axes.set_xlabel("epochs")
        top = axes.secondary_xaxis("top", functions=_scale(sum(sizes) / len(sizes)))
        _label_tokens(top)
    else:
        axes.set_xlabel("tokens seen")
        axes.xaxis.set_major_formatter(_in_thousands())
    save(force)


def _draw_run(axes: Axes, run: Run, x: str, i: int, *, alone: bool) -> None:
    """Plot a run's training loss as a solid line and its validation loss as a dashed one in the same colour."""
    train, val = run.curve(x, "train_loss"), run.curve(x, "val_loss")
    first, second = (f"C{i % 10}", f"C{i % 10}") if not alone else ("C0", "C1")
    names = ("training", "validation") if alone else (run.name, f"{run.name}, validation")
    steps, losses = train
    if len(losses) > _MANY:
        if alone:  # With several runs, the noise of one would hide the others.
            axes.plot(steps, losses, color=first, linewidth=0.5, alpha=0.3)
        width = len(losses) // _WINDOW
        means = np.convolve(losses, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], means, color=first, label=f"{names[0]}, mean of {width}" if alone else names[0])
    elif losses:
        axes.plot(steps, losses, color=first, label=names[0])
    if val[0]:
        few: dict[str, Any] = {"marker": "o", "markersize": 3} if len(val[0]) <= 30 else {}
        axes.plot(*val, color=second, linestyle="--", label=names[1], **few)


def _scale(factor: float) -> tuple[Any, Any]:
    """Return the functions that convert epochs to tokens and back."""

    def forward(x: Any) -> Any:
        return x * factor

    def backward(x: Any) -> Any:
        return x / factor

    return forward, backward


def _label_tokens(axis: Any) -> None:
    axis.set_xlabel("tokens seen")
    axis.xaxis.set_major_formatter(_in_thousands())


def _in_thousands() -> Any:
    """Return a formatter that writes numbers of tokens as 0, 500, 20k, 1.5M, 9B."""
    formatter = import_module("matplotlib.ticker").EngFormatter(sep="")
    formatter.ENG_PREFIXES = {**formatter.ENG_PREFIXES, 9: "B"}
    return formatter
