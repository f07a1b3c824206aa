"""zoo and its peers on the same weights, threads and prompts, in turns.

A precision at a time, each contender in a process of its own. In every round each generates once while the others
wait, so that a busy moment of the machine falls on all alike; ratios and shares are taken within a round. Reported are
the medians of the rounds.
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
from zoo.bench.turns import Turns
from zoo.formats.opening import open_path
from zoo.hub.resolve import find_checkpoint
from zoo.models.gpt2.config import GPTConfig


def bench(
    source: str | Path, settings: Settings | None = None, on_progress: Callable[[str], object] | None = None
) -> dict[str, Any]:
    """Measure how fast a model runs here.

    Args:
        source: checkpoint of any format, or a model's name.
        settings: what to measure.
        on_progress: called with a few words before each piece of work.

    Returns:
        {"model", "machine", "settings", "left_out", "rows"}. left_out says which peers took no part, and why. A row
        is a contender in a precision: tokens/s, seconds, bytes; of zoo the shares of what the machine can do, of a
        peer "zoo_is_faster", how many times as fast zoo is.

    Raises:
        OptionError: a setting is out of its range, or a name is unknown.
        ZooError: the checkpoint is damaged, the engine was not built, or a peer failed.
    """
    settings, on_progress = settings or Settings(), on_progress or (lambda _: None)
    path, left_out = find_checkpoint(source), settings.left_out()
    checkpoint = open_path(path)[1]
    config = checkpoint.config
    settings = settings.resolve(config)
    machine, rows = Machine(settings.threads or 1), []
    with busy_cores(settings.busy):
        for precision in settings.precisions:
            with tempfile.TemporaryDirectory(prefix="zoo-bench-") as directory:
                on_progress(f"{precision}: files are converted")
                turns = Turns(path, config, checkpoint.vocabulary, settings, precision, Path(directory))
                rows += turns.run(machine, on_progress)
    return {
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


def write_random(name: str | GPTConfig, out: Path) -> None:
    """Write a zoo file with random weights of a registered shape, or of a config.

    Raises:
        UnknownName: no config is registered under this name.
        OutputError: out cannot be written.
    """
    from zoo.conversion.save import save
    from zoo.models.gpt2.init import create

    save(create(name), out)
