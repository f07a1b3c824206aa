"""Weights spread over several files, and the index that names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zoo.converters._files import inside, read_json
from zoo.errors import CheckpointMismatch, FormatError
from zoo.tensors import LazyTensor


def find_weights(path: Path, names: tuple[str, ...]) -> Path:
    """Return the weights, or the index of weights, that a user means by a directory or by the file itself.

    Args:
        path: what the user named.
        names: of files that may be the weights, the preferred ones first.

    Raises:
        FormatError: the directory has none of them.
    """
    if not path.is_dir():
        return path
    for name in names:
        if (path / name).exists():
            return path / name
    raise FormatError(path, f"has no {names[0]}; say with --from what else it is")


def read_shards(file: Path, read: Callable[[Path], dict[str, LazyTensor]]) -> tuple[dict[str, LazyTensor], list[Path]]:
    """Open weights that are one file, or several that an index names; return the tensors, and all files.

    Which tensor is in which file the index says too; the files themselves say it better.

    Args:
        file: the weights, or the index, which ends in .json.
        read: opens one file of weights.

    Raises:
        FormatError: the index names no files.
        UnsafeFile: the index leads out of its directory.
        CheckpointMismatch: two files have the same tensor.
    """
    if file.suffix != ".json":
        return read(file), [file]
    weight_map = read_json(file).get("weight_map")
    if not isinstance(weight_map, dict):
        raise FormatError(file, "has no weight_map, so its shards are unknown; copy it again")
    shards = list(dict.fromkeys(inside(file.parent, name, file) for name in _names(weight_map)))
    tensors: dict[str, LazyTensor] = {}
    for shard in shards:
        held = read(shard)
        if twice := sorted(set(held) & set(tensors)):
            raise CheckpointMismatch(file, [f"{name} is in {shard.name} and in another shard" for name in twice])
        tensors |= held
    return tensors, [file, *shards]


def _names(weight_map: dict[str, Any]) -> Iterator[Any]:
    for where in weight_map.values():  # Keras lists files for a group of tensors, Hugging Face names one for each
        yield from where if isinstance(where, list) else [where]
