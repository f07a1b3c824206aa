"""The layout of a run directory. Imports nothing heavy.

config.json                 settings, sources and the model that the run started from
data/train.bin, val.bin     the text as tokens
metrics.jsonl, metrics.csv
checkpoints/last, best      links to the newest checkpoint and to the one with the lowest validation loss
checkpoints/step-00000200/
    state.json              step, tokens, metrics, and the BLAKE3 of every other file
    model.safetensors       the weights, a zoo file (adapter/ for LoRA; sharded/ for sharded parameters)
    average.safetensors     the averaged last weights, if the run averages (average-adapter/ for LoRA)
    optimizer.safetensors   AdamW's moments, by parameter name
"""

from __future__ import annotations

from pathlib import Path

from zoo.errors import UnsafeFile

SETTINGS, DATA, CHECKPOINTS, STATE = "config.json", "data", "checkpoints", "state.json"
MODEL, AVERAGE, OPTIMIZER = "model.safetensors", "average.safetensors", "optimizer.safetensors"
ADAPTER, AVERAGE_ADAPTER, SHARDED = "adapter", "average-adapter", "sharded"


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the path of the checkpoint of a step."""
    return run / CHECKPOINTS / f"step-{step:08}"


def list_checkpoints(run: Path) -> list[Path]:
    """Return a run's checkpoints, the newest first. All are complete: they got their names last.

    Links are ignored: zoo does not make them there, and they might lead anywhere.
    """
    found = (run / CHECKPOINTS).glob("step-" + "[0-9]" * 8)
    return sorted((path for path in found if not path.is_symlink()), reverse=True)


def weights_of_run(path: Path) -> Path | None:
    """Return the newest weights of a run directory, averaged ones if there are any.

    Also accepts one of its checkpoints. Returns None if the path is neither, or has no weights yet.
    """
    for directory in [path] if (path / STATE).is_file() else list_checkpoints(path):
        for name in (AVERAGE, AVERAGE_ADAPTER, MODEL, ADAPTER, SHARDED):
            if (directory / name).is_symlink():
                raise UnsafeFile(directory / name, "is a link, which zoo does not make there; copy the file")
            if (directory / name).exists():
                return directory / name
    return None
