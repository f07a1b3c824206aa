"""Checkpoints of sharded models (FSDP2): every process writes its shard."""

from __future__ import annotations

import io
import os
import shutil
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from zoo.containers.files import write_json
from zoo.core.output import as_output_error
from zoo.core.sync_and_rename import sync_path, sync_tree
from zoo.formats.sharded_index import INDEX
from zoo.hub.runs import SHARDED, checkpoint_path
from zoo.models.gpt2.model import GPTModel
from zoo.train.run.checkpoint import State, finish_checkpoint
from zoo.train.step.distributed import World


def save_sharded(directory: Path, model: GPTModel, optimizer: Optimizer) -> None:
    """Write a sharded checkpoint with torch.distributed.checkpoint. All processes must call it.

    Args:
        directory: Existing directory on a disk that all processes share.
        model: The GPTModel inside the module that World.wrap returned.
        optimizer: Optimizer of its parameters.
    """
    from torch.distributed.checkpoint.state_dict_saver import save

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # with a single process
        save(_state(model, optimizer), checkpoint_id=directory, no_dist=not dist.is_initialized())
    if not dist.is_initialized() or dist.get_rank() == 0:
        write_json(directory / INDEX, _index(directory, model))
    if dist.is_initialized():
        dist.barrier()


def load_sharded(directory: Path, model: GPTModel, optimizer: Optimizer) -> None:
    """Load a checkpoint of save_sharded into a model and its optimizer, with any number of processes.

    Its metadata is a pickle that torch executes: load only checkpoints that you wrote.
    """
    from torch.distributed.checkpoint.state_dict_loader import load

    state = _state(model, optimizer)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        load(state, checkpoint_id=directory, no_dist=not dist.is_initialized())
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])


def _state(model: GPTModel, optimizer: Optimizer) -> dict[str, Any]:
    return {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, optimizer)}


def _index(directory: Path, model: GPTModel) -> dict[str, Any]:
    """Describe the parameters of a new checkpoint, so that zoo can read them without its pickle."""
    metadata = FileSystemReader(directory).read_metadata()
    tensors: dict[str, Any] = {}
    for name in model.config.parameter_shapes():
        found = cast("TensorStorageMetadata", metadata.state_dict_metadata[f"model.{name}"])
        dtype = str(found.properties.dtype).removeprefix("torch.")
        tensors[name] = {"dtype": dtype, "shape": list(found.size), "pieces": []}
    sizes = {
        (name, tuple(chunk.offsets)): list(chunk.sizes)
        for name in tensors
        for chunk in cast("TensorStorageMetadata", metadata.state_dict_metadata[f"model.{name}"]).chunks
    }
    for piece, stored in metadata.storage_data.items():
        name = piece.fqn.removeprefix("model.")
        if piece.fqn.startswith("model.") and name in tensors:
            place, crc32 = _find_values(directory / stored.relative_path, stored.offset, stored.length)
            starts = tuple(piece.offset)
            tensors[name]["pieces"].append([stored.relative_path, place, crc32, list(starts), sizes[name, starts]])
    return {
        "config": model.config.to_dict(),
        "vocabulary": model.tokenizer.vocabulary.to_json(),
        "tensors": tensors,
    }


def _find_values(path: Path, offset: int, length: int) -> tuple[int, int]:
    """Return the position of a tensor's values, which torch.save stored in a zip within the file, and their
    checksum.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(length)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (record,) = (info for info in archive.infolist() if info.filename.endswith("/data/0"))
    # A local header has 30 bytes, then a name and an extra field, whose lengths are at 26 and 28.
    name_length, extra_length = struct.unpack_from("<HH", data, record.header_offset + 26)
    return offset + record.header_offset + 30 + name_length + extra_length, record.CRC


def save_sharded_checkpoint(run: Path, state: State, model: GPTModel, optimizer: Optimizer, here: World) -> Path:
    """Write a checkpoint of a run; each process writes its shard. All processes must call it.

    Raises:
        OutputError: The checkpoint cannot be written, for example because the disk is full. Earlier checkpoints are
            unchanged.
    """
    path = checkpoint_path(run, state.step)
    temporary = path.with_name(f".tmp.{path.name}")
    try:
        if here.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            (temporary / SHARDED).mkdir(parents=True)
        here.barrier()
        save_sharded(temporary / SHARDED, model, optimizer)
        if here.is_main:
            finish_checkpoint(temporary, state)
            sync_tree(temporary)
            os.replace(temporary, path)
            sync_path(path.parent)
    except (OSError, CheckpointException) as error:
        if here.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise as_output_error(_first_failure(error), path) from error
    return path


def _first_failure(error: OSError | CheckpointException) -> OSError:
    """Return the first failure; torch reports the failures of all processes to each of them."""
    if isinstance(error, OSError):
        return error
    failure = next(iter(error.failures.values()))[0]
    if isinstance(failure, OSError):
        return failure
    said = str(failure).splitlines() or [type(failure).__name__]
    return OSError(f"is the disk full? (torch says: {said[0]})")
