"""Weights spread over several files, and the index that names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zoo.containers.files import inside, read_json
from zoo.core.tensors import LazyTensor, Tensors
from zoo.errors import CheckpointMismatch, FormatError


def find_weights(path: Path, names: tuple[str, ...]) -> Path:
    """Return the weights, or their index, in a directory, or the file itself.

    Args:
        path: what the user named.
        names: names of files with weights, in order of preference.

    Raises:
        FormatError: the directory has none of them.
    """
    if not path.is_dir():
        return path
    for name in names:
        if (path / name).exists():
            return path / name
    raise FormatError(path, f"has no {names[0]}; name its format with format=NAME if it is another")


def read_shards(file: Path, read: Callable[[Path], dict[str, LazyTensor]]) -> tuple[dict[str, LazyTensor], list[Path]]:
    """Open weights that are one file, or several that an index names; return the tensors, and all files.

    The index also maps tensors to files; the files' own headers are used instead.

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


def split_shards(tensors: Tensors, max_bytes: int | None) -> dict[str, dict[str, LazyTensor]]:
    """Divide tensors, in their order, among files of at most max_bytes, under the names that transformers gives them.

    A tensor that is larger has a file of its own. None means one file.
    """
    groups: list[dict[str, LazyTensor]] = [{}]
    room = float("inf") if max_bytes is None else max_bytes
    held = 0
    for name, tensor in tensors.items():
        if groups[-1] and held + tensor.nbytes > room:
            groups.append({})
            held = 0
        groups[-1][name] = tensor
        held += tensor.nbytes
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i:05}-of-{len(groups):05}.safetensors": group for i, group in enumerate(groups, 1)}


def _names(weight_map: dict[str, Any]) -> Iterator[Any]:
    for where in weight_map.values():  # Keras lists files for a group of tensors, Hugging Face names one for each
        yield from where if isinstance(where, list) else [where]
