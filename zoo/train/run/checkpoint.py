"""Checkpoints of a run, written atomically; the oldest are pruned."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from zoo.api.models import load
from zoo.containers.files import read_json
from zoo.containers.safetensors import read_safetensors, write_safetensors
from zoo.conversion.save import save
from zoo.core.output import atomic_output
from zoo.core.paths import check_file
from zoo.core.tensors import LazyTensor
from zoo.errors import CorruptFile, FormatError
from zoo.hub.runs import (
    ADAPTER,
    AVERAGE,
    AVERAGE_ADAPTER,
    CHECKPOINTS,
    MODEL,
    OPTIMIZER,
    STATE,
    checkpoint_path,
    list_checkpoints,
)
from zoo.models.arrays import to_numpy, to_torch
from zoo.models.gpt2.model import GPTModel
from zoo.train.step.lora import has_lora, load_adapter, way_to, write_lora


@dataclass
class State:
    """The progress of a run.

    Attributes:
        step: Number of finished steps.
        n_tokens: Number of tokens trained on.
        seconds: Training time, summed over all sessions of the run.
        best_loss: Lowest validation loss so far; None before the first evaluation.
        best_step: Step at which best_loss was measured.
        n_worse: Evaluations since then.
        val_loss: Validation loss of the current weights, if it was measured.
        n_averaged: Number of steps whose weights are in the average.
        order: State of the window order; see Batches.state.
        generator: State of torch's global CPU generator, in hexadecimal, if the order is the book's; otherwise "".
    """

    step: int = 0
    n_tokens: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    n_worse: int = 0
    val_loss: float | None = None
    n_averaged: int = 0
    order: dict[str, Any] = field(default_factory=dict)
    generator: str = ""

    @property
    def is_best(self) -> bool:
        """Whether the validation loss of the current weights is the lowest so far."""
        return self.val_loss is not None and self.best_step == self.step


def save_checkpoint(
    run: Path, state: State, model: GPTModel, optimizer: Optimizer, *, average: GPTModel | None = None, base: str = ""
) -> Path:
    """Write a checkpoint from a single process.

    Args:
        run: Directory of the run.
        state: State to resume from.
        model: Model to write; if it has adapters, only they are written.
        optimizer: Optimizer of its parameters.
        average: Average of the last weights.
        base: Path of the base of the adapters.

    Raises:
        OutputError: The checkpoint cannot be written, for example because the disk is full. Earlier checkpoints are
            unchanged.
    """
    path = checkpoint_path(run, state.step)
    path.parent.mkdir(exist_ok=True)
    with atomic_output(path, force=True) as temporary:
        temporary.mkdir()
        base = way_to(base, path / ADAPTER)
        _write_weights(model, temporary / MODEL, temporary / ADAPTER, base)
        if average is not None:
            _write_weights(average, temporary / AVERAGE, temporary / AVERAGE_ADAPTER, base)
        _write_optimizer(temporary / OPTIMIZER, model, optimizer)
        finish_checkpoint(temporary, state)
    return path


def _write_weights(model: GPTModel, whole: Path, adapter: Path, base: str) -> None:
    if has_lora(model):
        adapter.mkdir()
        write_lora(model, adapter, base=base)
    else:
        save(model, whole, verify=False)  # the checkpoint's state has the hash of every file


def finish_checkpoint(directory: Path, state: State) -> None:
    """Write the state and the checksums into a directory whose other files are complete."""
    content = {**vars(state), "files": {str(path.relative_to(directory)): _hash(path) for path in _files(directory)}}
    (directory / STATE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_state(path: Path) -> State:
    """Compare every file of a checkpoint with its checksum and return the state.

    Raises:
        CorruptFile: A file differs from what was written.
        FormatError: There is no state.
    """
    content = read_json(path / STATE)
    files = content.pop("files", None)
    try:
        state = State(**content)
    except TypeError as error:
        raise FormatError(path / STATE, "is not the state of a run; use another checkpoint") from error
    if not isinstance(files, dict) or not files:
        raise FormatError(path / STATE, "has no checksums; use another checkpoint")
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise CorruptFile(file, "is missing from its checkpoint")
        check_file(file, path)
        if _hash(file) != expected:
            raise CorruptFile(file, "is corrupt: its checksum differs from the recorded one")
    return state


def load_model(path: Path, *, base: str = "", average: bool = False) -> GPTModel:
    """Load the model of a checkpoint, or the averaged weights. Adapters are loaded together with their base.

    Raises:
        ZooError: The checkpoint is corrupt or the base is missing.
    """
    adapter = path / (AVERAGE_ADAPTER if average else ADAPTER)
    if adapter.is_dir():
        return load_adapter(load(base, dtype="float32"), adapter)
    return load(path / (AVERAGE if average else MODEL))


def load_optimizer(path: Path, model: GPTModel, optimizer: Optimizer) -> None:
    """Load the optimizer state of a checkpoint.

    Raises:
        FormatError: The state is corrupt or belongs to other parameters.
    """
    file = path / OPTIMIZER
    tensors, metadata = read_safetensors(file)
    trained = _trained(model)
    if set(tensors) != {f"{name}.{kind}" for name in trained for kind in ("exp_avg", "exp_avg_sq")}:
        raise FormatError(file, "is the optimizer state of another model: the parameters differ")
    for name, parameter in trained.items():
        kinds = ("exp_avg", "exp_avg_sq")
        values = {kind: placed(to_torch(tensors[f"{name}.{kind}"].load()), parameter) for kind in kinds}
        optimizer.state[parameter] = {"step": torch.tensor(float(metadata["step"])), **values}


def placed(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """Copy a value to the device of a parameter; for a sharded parameter, only this process's shard."""
    value = value.to(parameter.device, copy=True)
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def link_checkpoints(run: Path, *, best_step: int) -> None:
    """Link checkpoints/last and checkpoints/best to the newest and the best checkpoint, for users."""
    directory = run / CHECKPOINTS
    with suppress(OSError):  # Some file systems have no links, and zoo itself does not need them.
        for name, path in (("last", list_checkpoints(run)[0]), ("best", checkpoint_path(run, best_step))):
            if path.is_dir():
                link = directory / f".{name}"
                link.unlink(missing_ok=True)
                link.symlink_to(path.name)
                os.replace(link, directory / name)


def prune(run: Path, *, keep: int, best_step: int) -> None:
    """Delete all checkpoints except the newest few and the best."""
    for path in list_checkpoints(run)[keep:]:
        if path != checkpoint_path(run, best_step):
            # Rename first: at every moment, a directory with a checkpoint's name is complete.
            doomed = path.with_name(f".deleted.{path.name}")
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def sweep(run: Path) -> None:
    """Delete partial directories that a killed process left."""
    for path in (run / CHECKPOINTS).glob(".*"):
        if path.is_symlink():
            path.unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)


def _write_optimizer(path: Path, model: GPTModel, optimizer: Optimizer) -> None:
    trained = _trained(model)
    states = {name: optimizer.state[parameter] for name, parameter in trained.items()}
    steps = {float(state["step"]) for state in states.values()}
    tensors = {
        f"{name}.{kind}": LazyTensor.of(to_numpy(state[kind]))
        for name, state in states.items()
        for kind in ("exp_avg", "exp_avg_sq")
    }
    write_safetensors(path, tensors, {"step": str(int(max(steps)))})


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != STATE)


def _hash(path: Path) -> str:
    from blake3 import blake3

    return blake3(max_threads=2).update_mmap(path).hexdigest()
