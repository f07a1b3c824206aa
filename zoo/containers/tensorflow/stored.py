"""The tensors in the data files of a TensorFlow checkpoint: where each is, and what checks it when it is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from zoo.containers.files import map_file
from zoo.containers.tensorflow.index import STRING, Entry, show, slice_key
from zoo.containers.tensorflow.leveldb import mask_crc
from zoo.containers.tensorflow.protobuf import Malformed, read_varint
from zoo.core.paths import check_file
from zoo.core.tensors import Array
from zoo.errors import CorruptFile, FormatError

_DAMAGED = "the file is damaged; copy or download it again"


@dataclass(frozen=True)
class Shard:
    """A data file, mapped.

    Attributes:
        path: Path of the file.
        data: its bytes; what is written into them stays in memory.
    """

    path: Path
    data: NDArray[np.uint8]


@dataclass
class Stored:
    """A tensor, or a part of one, that lies in a data file.

    Attributes:
        name: Name for error messages.
        entry: what the index says.
        shard: the file.
        checked: whether the checksum was compared. Two threads may both find that it was not; no harm.
    """

    name: str
    entry: Entry
    shard: Shard
    checked: bool = False

    @property
    def end(self) -> int:
        """Where it ends in its file."""
        return self.entry.offset + self.entry.size

    def load(self) -> Array:
        """Return the values, a view of the file wherever possible.

        Raises:
            CorruptFile: the checksum is wrong.
        """
        entry = self.entry
        raw = self.shard.data[entry.offset : self.end]
        if entry.dtype == STRING:
            return self._load_strings(raw.tobytes())
        if not self.checked:
            self._compare(google_crc32c.value(raw))
            self.checked = True
        array: Array = raw.view(entry.dtype).reshape(entry.shape)
        # Nothing aligns the tensors of a data file, and some libraries fail on arrays that are not.
        return array if array.flags.aligned else array.copy()

    def _load_strings(self, raw: bytes) -> Array:
        # All lengths, a CRC of them, then all bytes. The tensor's own CRC sees the lengths as 4-byte numbers.
        lengths, position = [], 0
        try:
            for _ in range(math.prod(self.entry.shape)):
                length, position = read_varint(raw, position)
                lengths.append(length)
        except Malformed as error:
            raise CorruptFile(self.shard.path, f"tensor {self.name}: {error}; {_DAMAGED}") from error
        ends = list(accumulate(lengths, initial=position + 4))
        if ends[-1] != len(raw):
            raise CorruptFile(self.shard.path, f"the strings of tensor {self.name} have wrong lengths; {_DAMAGED}")
        numbers = b"".join(length.to_bytes(8 if length >> 32 else 4, "little") for length in lengths)
        self._compare(google_crc32c.value(numbers + raw[position:]))
        array = np.empty(len(lengths), STRING)
        array[:] = [raw[start:end] for start, end in pairwise(ends)]
        return array.reshape(self.entry.shape)

    def _compare(self, crc: int) -> None:
        if mask_crc(crc) != self.entry.crc:
            raise CorruptFile(self.shard.path, f"the checksum of tensor {self.name} is wrong; {_DAMAGED}")


def place(index: Path, entries: Mapping[bytes, Entry], paths: Sequence[Path]) -> dict[bytes, Stored]:
    """Open the data files, and find every tensor and every part of one in them.

    Raises:
        CorruptFile: a file is shorter than the index says.
        FormatError: a file is missing, or a Git LFS pointer.
    """
    shards = [_open(path) for path in paths]
    stored = {}
    for key, entry in entries.items():
        if entry.slices:
            continue
        if entry.shard >= len(shards):
            problem = f"tensor {show(key)} is in data file number {entry.shard}, but there are {len(shards)}"
            raise CorruptFile(index, f"{problem}; {_DAMAGED}")
        stored[key] = Stored(show(key), entry, shards[entry.shard])
    # The file that is short by most tells best how far a download came.
    last = max(stored.values(), key=lambda each: each.end - len(each.shard.data), default=None)
    if last and last.end > len(last.shard.data):
        raise CorruptFile(
            last.shard.path,
            f"has {len(last.shard.data):,} bytes, but tensor {last.name} ends at byte {last.end:,} by the index; "
            "the file is truncated, copy or download it again",
        )
    if sum(each.entry.size for each in stored.values()) > sum(len(shard.data) for shard in shards):
        # Read again and again, a small file could fill memory and disk.
        raise CorruptFile(index, f"its tensors overlap: they have more bytes than its data files; {_DAMAGED}")
    return stored


def _open(path: Path) -> Shard:
    if not path.is_file():
        raise FormatError(path, "is missing, but the index beside it needs it; copy or download it too")
    check_file(path)
    # An empty file, which cannot be mapped, is right where all tensors are empty.
    return Shard(path, np.frombuffer(map_file(path) if path.stat().st_size else b"", np.uint8))


def join(index: Path, key: bytes, entry: Entry, stored: Mapping[bytes, Stored]) -> Callable[[], Array]:
    """Return what loads a partitioned variable. TensorFlow partitions along one axis.

    Raises:
        CorruptFile: its parts are missing, overlap or leave gaps.
        FormatError: it is cut along several axes.
    """
    extents = [_spell_out(part, entry.shape) for part in entry.slices]
    parts = [stored.get(slice_key(key, part)) for part in entry.slices]
    found = [(where, part) for where, part in zip(extents, parts, strict=True) if part and _fits(part, where, entry)]
    if len(found) != len(parts):
        raise CorruptFile(index, f"not all parts of the partitioned tensor {show(key)} are right; {_DAMAGED}")
    axes = {d for where, _ in found for d, extent in enumerate(where) if extent != (0, entry.shape[d])} or {0}
    if len(axes) > 1:
        raise FormatError(index, f"tensor {show(key)} is partitioned along several axes, which zoo does not read")
    axis = axes.pop()
    found.sort(key=lambda pair: pair[0][axis])
    ends = list(accumulate((where[axis][1] for where, _ in found), initial=0))
    # Parts that share their bytes could make a small file fill the memory.
    room = sum({part.shard.path: len(part.shard.data) for _, part in found}.values())
    size = sum(part.entry.size for _, part in found)
    if [where[axis][0] for where, _ in found] != ends[:-1] or ends[-1] != entry.shape[axis] or size > room:
        problem = f"the parts of the partitioned tensor {show(key)} overlap or leave gaps"
        raise CorruptFile(index, f"{problem}; {_DAMAGED}")
    named = [replace(part, name=f"{show(key)} (part {i} of {len(found)})") for i, (_, part) in enumerate(found, 1)]
    return lambda: np.concatenate([part.load() for part in named], axis)


def _spell_out(part: Sequence[tuple[int, int]], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(start, whole if length < 0 else length) for (start, length), whole in zip(part, shape, strict=True)]


def _fits(part: Stored, where: Sequence[tuple[int, int]], entry: Entry) -> bool:
    return part.entry.dtype == entry.dtype and part.entry.shape == tuple(length for _, length in where)
