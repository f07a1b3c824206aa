"""The metrics of a run, one row per measurement: metrics.jsonl for programs, metrics.csv for spreadsheets."""

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
    """One row of metrics. Losses are in nats per token; values that were not measured are None.

    Attributes:
        step: Number of finished steps.
        epoch: Number of finished passes over the text, such as 1.5.
        tokens: Number of tokens trained on so far.
        train_loss: Loss of this step's batch before the update; in the book's order, of some batches after it.
        val_loss: Loss of the validation text.
        perplexity: exp(val_loss).
        lr: Learning rate of this step.
        grad_norm: Gradient norm before clipping.
        tokens_per_s: Tokens per second since the previous row.
        seconds: Training time so far.
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
    """Append rows to the metrics files of a run. After a resume, rows of repeated steps are removed."""

    def __init__(self, run: Path, *, from_step: int = 0) -> None:
        """Open the files and remove the rows after from_step.

        Raises:
            OutputError: The files cannot be written.
        """
        self._json, self._csv = run / "metrics.jsonl", run / "metrics.csv"
        rows = [row for row in _read(self._json) if row["step"] <= from_step]
        with atomic_output(self._json, force=True) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        with atomic_output(self._csv, force=True) as temporary:
            temporary.write_text(_line(COLUMNS) + "".join(_line(_cells(row)) for row in rows), encoding="utf-8")

    def write(self, row: Row) -> None:
        """Append a row and flush it to the operating system.

        Raises:
            OutputError: The files cannot be written, for example because the disk is full.
        """
        for path, line in ((self._json, json.dumps(row) + "\n"), (self._csv, _line(_cells(row)))):
            try:
                with path.open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                raise as_output_error(error, path) from error


def _read(path: Path) -> list[dict[str, Any]]:
    """Return all complete rows; a kill can leave a truncated last line, which is ignored."""
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
