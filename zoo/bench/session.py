"""Run zoo and other libraries alternately on the same weights, with the same threads and prompts.

Precisions are measured one after the other, each contender in its own process. In every round, each contender generates
once while the others wait, so that other load affects all alike. Ratios and percentages are computed within a round;
the medians of all rounds are reported.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zoo.bench.options import Settings
from zoo.bench.probe import Machine
from zoo.bench.process import busy_cores
from zoo.bench.turns import Row, Turns
from zoo.formats.opening import open_path
from zoo.hub.resolve import find_checkpoint
from zoo.models.gpt2.config import GPTConfig


def _ignore(_: object) -> None:
    pass


def bench(
    source: str | Path,
    settings: Settings | None = None,
    on_progress: Callable[[str], object] = _ignore,
    on_row: Callable[[Row], object] = _ignore,
) -> dict[str, Any]:
    """Measure the speed of a model on this machine.

    Args:
        source: Checkpoint of any format, or the name of a model.
        settings: What to measure.
        on_progress: Callback with a short description before each part of the work.
        on_row: Callback with each row, as soon as its precision is measured.

    Returns:
        {"interrupted", "model", "machine", "settings", "left_out", "rows"}. left_out has the libraries that took no
        part or failed, and the reasons. After Ctrl-C the rows are those of the finished rounds. Each row is a
        contender in a precision: tokens/s, seconds and bytes; for zoo also the fractions of the machine's limits, for
        others "zoo_is_faster", zoo's speed-up over them.

    Raises:
        OptionError: A setting is out of range, or a name is unknown.
        ZooError: The checkpoint is corrupt, the engine was not compiled, or it failed.
    """
    settings = settings or Settings()
    path, left_out = find_checkpoint(source), settings.left_out()
    checkpoint = open_path(path)[1]
    config = checkpoint.config
    settings = settings.resolve(config)
    machine, rows, interrupted = Machine(settings.threads or 1), list[Row](), False
    with busy_cores(settings.busy):
        for precision in settings.precisions:
            with tempfile.TemporaryDirectory(prefix="zoo-bench-") as directory:
                on_progress(f"{precision}: files are converted")
                turns = Turns(path, config, checkpoint.vocabulary, settings, precision, Path(directory))
                interrupted = not _finishes(turns, machine, on_progress)
            left_out |= turns.failed
            for row in turns.rows():
                rows.append(row)
                on_row(row)
            if interrupted:
                break
    if not rows:
        raise KeyboardInterrupt
    return {
        "interrupted": interrupted,
        "model": {"source": str(source), "parameters": config.n_parameters, "config": config.to_dict()},
        "machine": {
            "threads": settings.threads,
            "read_bandwidth": statistics.median(machine.bandwidths),
            "multiply_add_peak": {dtype: statistics.median(found) for dtype, found in machine.peaks.items()},
        },
        "settings": asdict(settings),
        "left_out": left_out,
        "rows": rows,
    }


def _finishes(turns: Turns, machine: Machine, on_progress: Callable[[str], object]) -> bool:
    """Whether all rounds ran; Ctrl-C ends them."""
    try:
        turns.run(machine, on_progress)
    except KeyboardInterrupt:
        return False
    return True


def write_random(name: str | GPTConfig, out: Path) -> None:
    """Write a zoo file with random weights in the shape of a registered model or a config.

    Raises:
        UnknownName: No config is registered under this name.
        OutputError: out cannot be written.
    """
    from zoo.conversion.save import save
    from zoo.models.gpt2.init import create

    save(create(name), out)
