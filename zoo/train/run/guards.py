"""What must hold while a run goes on: no other process works on it, and what is saved can be gone on from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn
from torch.distributed.tensor import DTensor

from zoo.core.file_lock import lock_directory
from zoo.errors import OptionError, TrainingError
from zoo.train.settings import TrainConfig


@contextmanager
def alone(run: Path | None) -> Iterator[None]:
    """Hold the lock of a run's directory, so that no other process continues it or removes its temporary files.

    Raises:
        TrainingError: another process has it.
    """
    if run is None:
        yield
        return
    with lock_directory(run) as is_ours:
        if is_ours is False:
            raise TrainingError(f"{run} is being trained by another process; wait until that has ended")
        yield


def is_finite(model: nn.Module) -> bool:
    """Whether every weight, of this process's share, is a finite number."""
    parameters = (p.to_local() if isinstance(p, DTensor) else p for p in model.parameters())
    return all(bool(p.isfinite().all()) for p in parameters)


def check_together(config: TrainConfig, *, fsdp: bool, lora: bool) -> None:
    """Refuse options that exclude each other.

    Raises:
        OptionError: there are some.
    """
    if fsdp and (config.average or config.only_used_ids or lora):
        raise OptionError("fsdp excludes average, only_used_ids and LoRA; leave them out, or leave out fsdp")


def check_processes(batch_size: int, n_processes: int) -> None:
    """Refuse steps that have fewer windows than there are training processes.

    Raises:
        OptionError: a process would have no window.
    """
    if batch_size < n_processes:
        raise OptionError(
            f"a step has {batch_size} windows, fewer than the number of processes, {n_processes}; give a larger "
            "batch_size or more text, or start fewer processes"
        )
