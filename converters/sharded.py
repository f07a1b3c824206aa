"""A checkpoint that several processes wrote with torch.distributed.checkpoint while they trained.

torch writes a directory in which `.metadata`, a pickle, lists the `__r_n.distcp` files that hold the pieces of each
tensor. zoo.train adds zoo.json, which lists the same pieces of the model's parameters without a pickle: file, offset
and checksum. Reading therefore needs neither torch nor trust.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np

from zoo.containers.files import inside, is_shape, map_file, read_json
from zoo.converters.zoo_file import ZooFile
from zoo.core.tensors import DTYPES, Array, LazyTensor
from zoo.errors import ConfigError, CorruptFile, FormatError
from zoo.formats.base import Checkpoint, Format, Known
from zoo.formats.config_map import ConfigMap
from zoo.formats.sharded_index import INDEX
from zoo.formats.vocabulary_notes import assume_vocabulary
from zoo.models.gpt2.config import GPTConfig
from zoo.text.vocabulary import Vocabulary

DATA = ".metadata"


@dataclass(frozen=True)
class Piece:
    """Where a part of a tensor lies.

    Attributes:
        starts: of the part in the tensor, one an axis.
        shape: of the part.
        data: the mapped file.
        offset: of the part's bytes in it.
        crc32: of the bytes.
    """

    starts: tuple[int, ...]
    shape: tuple[int, ...]
    data: mmap
    offset: int
    crc32: int


class Sharded(Format):
    """What zoo.train.run.sharded_checkpoint.save_sharded writes; `zoo convert` makes one file of it."""

    name = "sharded"
    summary = "torch.distributed.checkpoint of zoo's training: each process wrote its share of the weights"
    table = ZooFile.table
    config_map = ConfigMap(fields=())
    is_directory = True
    dtypes = ZooFile.dtypes
    writes = False
    pads = True

    def sniff(self, path: Path) -> bool:
        """Return whether it is a directory with both indexes."""
        return (path / INDEX).is_file() and (path / DATA).is_file()

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open the pieces with the config of the index."""
        file = path / INDEX
        index = read_json(file)
        try:
            found = GPTConfig.from_dict(index["config"])
        except (KeyError, TypeError, AttributeError, ConfigError) as error:
            raise FormatError(file, f"its config is missing or impossible: {error}") from error
        files: dict[str, mmap] = {}
        try:
            tensors = {
                str(name): _tensor(file, name, entry, partial(_map, path, file, files))
                for name, entry in index["tensors"].items()
            }
            own = index.get("vocabulary")
            vocabulary, guess = (Vocabulary.from_json(own, file), []) if own else assume_vocabulary(found)
        except FormatError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptFile(file, f"its list of tensors is damaged ({error!r:.100})") from error
        if sum(tensor.nbytes for tensor in tensors.values()) > sum(map(len, files.values())):
            raise CorruptFile(file, "its tensors have more bytes than its files; several must share some")
        return Checkpoint(
            path,
            found,
            tensors,
            vocabulary=vocabulary,
            files=(file, *(path / name for name in files)),
            notes=tuple(guess),
        )


def _map(directory: Path, index: Path, files: dict[str, mmap], name: Any) -> mmap:
    path = inside(directory, name, index)
    if name not in files:
        files[name] = map_file(path)
    return files[name]


def _tensor(index: Path, name: str, entry: dict[str, Any], open_file: Callable[[Any], mmap]) -> LazyTensor:
    """Check the index's entry of a tensor before anything is allocated for it."""
    dtype, shape = DTYPES[entry["dtype"]], _lengths(entry["shape"])
    pieces = []
    for file, offset, crc32, starts, lengths in entry["pieces"]:
        piece = Piece(_lengths(starts), _lengths(lengths), open_file(file), *_lengths([offset]), *_lengths([crc32]))
        ends = [start + length for start, length in zip(piece.starts, piece.shape, strict=True)]
        nbytes = math.prod(piece.shape) * dtype.itemsize
        if any(end > length for end, length in zip(ends, shape, strict=True)):
            raise CorruptFile(index, f"a piece of tensor {name} lies outside it")
        if piece.offset + nbytes > len(piece.data):
            raise CorruptFile(index, f"a piece of tensor {name} ends after its file {file}, which may be truncated")
        pieces.append(piece)
    if sum(math.prod(piece.shape) for piece in pieces) != math.prod(shape):
        raise CorruptFile(index, f"the pieces of tensor {name} are not the whole of it")
    return LazyTensor(shape, dtype, partial(_load, index, name, dtype, shape, pieces))


def _lengths(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, list) or not is_shape(numbers):
        raise ValueError(f"{numbers!r:.60} should be integers")
    return tuple(numbers)


def _load(index: Path, name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...], pieces: list[Piece]) -> Array:
    parts = []
    for piece in pieces:
        count = math.prod(piece.shape)
        with memoryview(piece.data) as view:
            if zlib.crc32(view[piece.offset : piece.offset + count * dtype.itemsize]) != piece.crc32:
                raise CorruptFile(index, f"the checksum of tensor {name} does not fit its bytes; they have changed")
        parts.append(np.frombuffer(piece.data, dtype, count, piece.offset).reshape(piece.shape))
    if len(parts) == 1 and parts[0].shape == shape:
        return parts[0]
    whole = np.empty(shape, dtype)
    seen = np.zeros(shape, np.bool_)
    for piece, part in zip(pieces, parts, strict=True):
        place = tuple(slice(a, a + n) for a, n in zip(piece.starts, piece.shape, strict=True))
        whole[place], seen[place] = part, True
    if not seen.all():
        raise CorruptFile(index, f"the pieces of tensor {name} overlap")
    return whole
