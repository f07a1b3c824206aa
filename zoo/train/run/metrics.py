"""What a run measured, line by line: metrics.jsonl for programs, the same as metrics.csv for tables."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, TypedDict

from zoo.core.output import as_output_error, atomic_output

COLUMNS = (
    "step", "epoch", "tokens", "train_loss", "val_loss", "perplexity", "lr", "grad_norm", "tokens_per_s", "seconds"
)  # fmt: skip


class Row(TypedDict):
    """One line of metrics; losses in nats per token, None where nothing was measured.

    Attributes:
        step: steps done.
        epoch: passes over the text done, such as 1.5.
        tokens: trained on so far.
        train_loss: of this step's batch, before the step; in the book's order, of some batches after it.
        val_loss: of the validation text.
        perplexity: exp(val_loss).
        lr: learning rate of this step.
        grad_norm: of the gradients before clipping.
        tokens_per_s: since the line before.
        seconds: of training so far.
    """

    step: int
    epoch: float
    tokens: int
    train_loss: float
    val_loss: float | None
    perplexity: float | None
    lr: float
    grad_norm: float
    tokens_per_s: float
    seconds: float


class Metrics:
    """Appends rows to a run's files. After a resume, rows of steps that are done again are gone."""

    def __init__(self, run: Path, *, from_step: int = 0) -> None:
        """Open the files, and cut off what comes after a step.

        Raises:
            OutputError: they cannot be written.
        """
        self._json, self._csv = run / "metrics.jsonl", run / "metrics.csv"
        rows = [row for row in _read(self._json) if row["step"] <= from_step]
        with atomic_output(self._json, force=True) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        with atomic_output(self._csv, force=True) as temporary:
            temporary.write_text(_line(COLUMNS) + "".join(_line(_cells(row)) for row in rows), encoding="utf-8")

    def write(self, row: Row) -> None:
        """Append a row; it is on its way to the disk when this returns.

        Raises:
            OutputError: the disk is full, or the files cannot be written.
        """
        for path, line in ((self._json, json.dumps(row) + "\n"), (self._csv, _line(_cells(row)))):
            try:
                with path.open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                raise as_output_error(error, path) from error


def _read(path: Path) -> list[dict[str, Any]]:
    """Read whole lines; a last one that is cut short, as after a kill, is none."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _cells(row: Any) -> list[str]:
    return ["" if row[column] is None else repr(row[column]) for column in COLUMNS]


def _line(cells: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
