"""What lies where in a run's directory; imports nothing heavy.

config.json                 settings, sources and the model begun with
data/train.bin, val.bin     tokens made from text
metrics.jsonl, metrics.csv
checkpoints/last, best      links to the newest checkpoint and to that of the lowest validation loss
checkpoints/step-00000200/
    state.json              step, tokens, metrics, and the BLAKE3 of every other file
    model.safetensors       the weights, a zoo file (adapter/ for LoRA; sharded/ where parameters are shared out)
    average.safetensors     the mean of the last weights, if the run takes it (average-adapter/ for LoRA)
    optimizer.safetensors   AdamW's means, by the names of their parameters
"""

from __future__ import annotations

from pathlib import Path

SETTINGS, DATA, CHECKPOINTS, STATE = "config.json", "data", "checkpoints", "state.json"
MODEL, AVERAGE, OPTIMIZER = "model.safetensors", "average.safetensors", "optimizer.safetensors"
ADAPTER, AVERAGE_ADAPTER, SHARDED = "adapter", "average-adapter", "sharded"


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return run / CHECKPOINTS / f"step-{step:08}"


def list_checkpoints(run: Path) -> list[Path]:
    """Return a run's checkpoints, the newest first. All are whole: they got their names last."""
    return sorted((run / CHECKPOINTS).glob("step-" + "[0-9]" * 8), reverse=True)


def weights_of_run(path: Path) -> Path | None:
    """Return the checkpoint that a run's directory means: the newest weights, averaged ones if there are.

    Also for one of its checkpoints. None if the path is neither, or has no weights yet.
    """
    for directory in [path] if (path / STATE).is_file() else list_checkpoints(path):
        for name in (AVERAGE, AVERAGE_ADAPTER, MODEL, ADAPTER, SHARDED):
            if (directory / name).exists():
                return directory / name
    return None
