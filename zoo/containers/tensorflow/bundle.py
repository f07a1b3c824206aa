"""TensorFlow's checkpoints ("V2", tensor bundles): NAME.index, NAME.data-00000-of-00001, ... and a file `checkpoint`.

TensorFlow takes seconds to import, copies everything into memory and ends the process on a damaged index; this reader
maps the files. It reads what tf.train.Saver and tf.train.Checkpoint write: several data files, partitioned variables
and byte strings too. It writes, but for byte strings, the same bytes as tf.train.Saver, in one data file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

import google_crc32c
import numpy as np

from zoo.containers.files import inside, map_file
from zoo.containers.tensorflow.index import (
    DTYPE_CODES,
    Entry,
    is_slice_key,
    read_index,
    read_shard_count,
    show,
    write_index,
)
from zoo.containers.tensorflow.leveldb import MAGIC, mask_crc
from zoo.containers.tensorflow.stored import join, place
from zoo.core.paths import LFS_MAGIC, is_own_file
from zoo.core.stream import Progress, ignore_progress, write_at
from zoo.core.tensors import LazyTensor
from zoo.errors import CannotHold, CorruptFile, FormatError, UnsafeFile

_LATEST = "checkpoint"  # the file that names the newest checkpoint of a directory


def is_index(path: Path) -> bool:
    """Whether a file is the index of a TensorFlow checkpoint, or what Git LFS left in its place.

    The prefix of a checkpoint, such as dir/model.ckpt, stands for its index.
    """
    file = path if path.suffix == ".index" else _index_of(path)
    if not is_own_file(file):
        return False
    with file.open("rb") as opened:
        if opened.read(len(LFS_MAGIC)) == LFS_MAGIC:
            return True
        opened.seek(max(0, opened.seek(0, 2) - len(MAGIC)))
        return opened.read() == MAGIC


def find_prefix(path: Path) -> Path:
    """Return the prefix of a checkpoint's files, such as dir/model.ckpt.

    Args:
        path: the prefix itself, an .index file, or a directory. The directory's file `checkpoint` says which one is
            meant; without it there must be exactly one.

    Raises:
        UnsafeFile: `checkpoint` names something outside its directory.
        FormatError: there is no checkpoint, or there are several.
    """
    if path.is_dir():
        prefix = _latest(path) if (path / _LATEST).is_file() else _only(path)
    else:
        prefix = path.with_suffix("") if path.suffix == ".index" else path
    if not _index_of(prefix).is_file():
        raise FormatError(_index_of(prefix), "is missing; without it there is no TensorFlow checkpoint to read")
    return prefix


def _latest(directory: Path) -> Path:
    file = directory / _LATEST
    found = re.search(rb'^\s*model_checkpoint_path\s*:\s*"((?:[^"\\\n]|\\.){1,200})"', map_file(file), re.MULTILINE)
    if not found:
        raise CorruptFile(file, "does not say which checkpoint it means; give the path of the .index file")
    name = _unescape(found[1]).replace("\0", "\ufffd")
    # TensorFlow writes the path that it was given, and the directory may have moved since, even from Windows.
    last = re.split(r"[/\\]", name)[-1]
    if last and _index_of(directory / last).is_file():
        name = last
    try:
        return inside(directory, name, file)
    except UnsafeFile as error:
        raise UnsafeFile(
            file, f"points to '{name}', not to a name in its own directory; give the path of the .index file"
        ) from error


def _unescape(text: bytes) -> str:
    def character(found: re.Match[bytes]) -> bytes:
        return bytes([int(found[1], 8) & 0xFF]) if found[1] else found[2]

    return re.sub(rb"\\(?:([0-7]{1,3})|(.))", character, text).decode(errors="replace")


def _only(directory: Path) -> Path:
    found = sorted(directory.glob("*.index"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        problem = f"has no file `checkpoint`, and of TensorFlow's .index files: {names}"
        raise FormatError(directory, f"{problem}; give the path of the one that you mean")
    return found[0].with_suffix("")


def bundle_files(prefix: Path) -> list[Path]:
    """Return the files of a checkpoint: its index, then its data files.

    Raises:
        FormatError: the index cannot be read; CorruptFile where it is damaged.
    """
    return [_index_of(prefix), *_shards_of(prefix, read_shard_count(_index_of(prefix)))]


def _index_of(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def _shards_of(prefix: Path, count: int) -> list[Path]:
    return [prefix.with_name(f"{prefix.name}.data-{i:05}-of-{count:05}") for i in range(count)]


def read_bundle(prefix: Path) -> dict[str, LazyTensor]:
    """Open a checkpoint: its tensors, in the order of their names, as views of the mapped files.

    The views can be written to, which changes neither file. A tensor's checksum is compared when it is first loaded.
    Partitioned variables are joined. Tensors of byte strings have dtype object and load as bytes objects.

    Raises:
        CorruptFile: the index is damaged, or a data file is shorter than it says.
        FormatError: a file is missing or a Git LFS pointer, or the index holds what zoo does not read.
    """
    index = _index_of(prefix)
    count, entries = read_index(index)
    stored = place(index, entries, _shards_of(prefix, count))
    tensors = {}
    for key, entry in entries.items():
        if is_slice_key(key):
            continue
        load = join(index, key, entry, stored) if entry.slices else stored[key].load
        try:
            tensors[key.decode()] = LazyTensor(entry.shape, entry.dtype, load)
        except UnicodeDecodeError as error:
            raise CorruptFile(
                index, f"the name of tensor {show(key)} is not UTF-8; copy or download it again"
            ) from error
    return tensors


def write_bundle(prefix: Path, tensors: Mapping[str, LazyTensor], on_bytes: Progress = ignore_progress) -> None:
    """Write a checkpoint that tf.train.load_checkpoint reads, and the file `checkpoint` that names it.

    The files are prefix.index and prefix.data-00000-of-00001. The tensors lie there in the order of their names, and
    the same tensors always give the same bytes.

    Raises:
        CannotHold: a name is empty or begins with a zero byte, or TensorFlow has no such dtype.
        OSError: the disk is full, or the files cannot be written.
        ZooError: whatever loading a tensor raises.
    """
    named = sorted((_key(name), tensor) for name, tensor in tensors.items())
    for key, tensor in named:
        if tensor.dtype not in DTYPE_CODES:
            raise CannotHold(f"tensor {show(key)} has dtype {tensor.dtype}, which zoo cannot write for TensorFlow")
    offsets = list(accumulate((tensor.nbytes for _, tensor in named), initial=0))
    (shard,) = _shards_of(prefix, 1)
    with shard.open("wb") as file:
        file.truncate(offsets[-1])
    crcs = [0] * len(named)

    def digest(i: int, data: memoryview) -> None:
        # The extension takes arrays, but no memoryviews.
        crcs[i] = google_crc32c.extend(crcs[i], np.frombuffer(data, np.uint8))

    write_at(shard, ((offset, tensor) for offset, (_, tensor) in zip(offsets, named, strict=False)), on_bytes, digest)
    entries = (
        (key, Entry(tensor.shape, tensor.dtype, 0, offset, tensor.nbytes, mask_crc(crc)))
        for (key, tensor), offset, crc in zip(named, offsets, crcs, strict=False)
    )
    write_index(_index_of(prefix), entries)
    _write_latest(prefix)


def _write_latest(prefix: Path) -> None:
    name = prefix.name.replace("\\", r"\\").replace('"', r"\"")
    text = f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n'
    prefix.with_name(_LATEST).write_text(text, encoding="utf-8")


def _key(name: str) -> bytes:
    try:
        key = name.encode()
    except UnicodeEncodeError as error:
        raise CannotHold(f"the tensor's name {name!r} is not text, which TensorFlow cannot hold") from error
    if not key or is_slice_key(key):
        raise CannotHold(f"TensorFlow reserves the name {name!r}; give the tensor another one")
    return key
