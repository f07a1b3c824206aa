"""The zip archive in which torch.save keeps its records, mapped and distrusted.

The central directory is read by the standard library. Where a record's bytes begin stands only in its local header,
so that is read here, and compared with the directory: records that lie about their place or overlap are refused.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from zoo.containers.files import map_file
from zoo.containers.torch.storage import DAMAGED, Bytes, check_crc
from zoo.errors import CorruptFile, FormatError

ZIP_MAGIC = b"PK\x03\x04"
PICKLE = "data.pkl"

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_ENCRYPTED, _SIZES_FOLLOW, _UTF8 = 1, 8, 1 << 11  # flags
_IN_ZIP64 = 0xFFFFFFFF

MAX_DIRECTORY_BYTES = 1 << 20
"""Some 15,000 records. The largest GPT-2 with its optimizer has 1,800."""


@dataclass(frozen=True)
class Record:
    """A file in the archive.

    Attributes:
        data: its bytes, a view of the mapped archive.
        crc: what their CRC32 must be.
    """

    data: Bytes
    crc: int


class TorchZip:
    """The records of an archive, by their name below the archive's one directory.

    Args:
        path: Path of the archive.

    Raises:
        FormatError: it is not an archive of torch.save, or not one that zoo reads.
        CorruptFile: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data: Bytes = np.frombuffer(map_file(path), np.uint8)
        infos = _read_directory(path)
        self.archive = _archive_name([info.filename for info in infos])
        if self.archive is None:
            raise FormatError(path, f"is a zip archive, but not one of torch.save: it has no record {PICKLE}")
        self._records: dict[str, Record] = {}
        end = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            if info.header_offset < end or info.filename in self._records:
                raise CorruptFile(path, f"the record {info.filename} overlaps another one or is there twice; {DAMAGED}")
            start = self._check_local_header(info)
            end = start + info.file_size
            if end > len(self._data):
                raise CorruptFile(path, f"the record {info.filename} goes beyond the end of the file; {DAMAGED}")
            self._records[info.filename] = Record(self._data[start:end], info.CRC)

    def find(self, name: str) -> Record | None:
        """Return a record, unchecked; None if there is none."""
        return self._records.get(f"{self.archive}/{name}")

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a copy of a record's bytes; None if there is none.

        Raises:
            CorruptFile: the checksum is wrong, or there are more bytes than the limit.
        """
        record = self.find(name)
        if record is None:
            return None
        if len(record.data) > limit:
            raise CorruptFile(self.path, f"its record {name} has {len(record.data):,} bytes, too many for a checkpoint")
        check_crc(self.path, f"record {name}", record.data, record.crc)
        return record.data.tobytes()

    def _check_local_header(self, info: zipfile.ZipInfo) -> int:
        """Compare a record's local header with the directory and return where its bytes begin."""
        begin = info.header_offset
        header: bytes = self._data[begin : begin + _LOCAL_HEADER.size].tobytes()
        if begin < 0 or len(header) < _LOCAL_HEADER.size:
            raise CorruptFile(self.path, f"the record {info.filename} goes beyond the end of the file; {DAMAGED}")
        magic, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        if (flags | info.flag_bits) & _ENCRYPTED:
            raise FormatError(self.path, f"its record {info.filename} is encrypted, which zoo does not read")
        if {method, info.compress_type} != {zipfile.ZIP_STORED}:
            problem = f"its record {info.filename} is compressed, so it cannot be mapped"
            raise FormatError(self.path, f"{problem}; write it again with torch.save, or with `zip -0`")
        begin += _LOCAL_HEADER.size
        name = self._data[begin : begin + name_length].tobytes()
        # torch writes the sizes behind the bytes; then they are 0 here, and the directory's count.
        same = flags & _SIZES_FOLLOW or (
            crc == info.CRC and packed in (_IN_ZIP64, info.compress_size) and size in (_IN_ZIP64, info.file_size)
        )
        encoding = "utf-8" if info.flag_bits & _UTF8 else "cp437"
        if not same or magic != ZIP_MAGIC or name != info.orig_filename.encode(encoding, "replace"):
            raise CorruptFile(self.path, f"the two headers of the record {info.filename} differ; {DAMAGED}")
        if info.compress_size != info.file_size:
            raise CorruptFile(self.path, f"the sizes of the record {info.filename} differ; {DAMAGED}")
        return int(begin + name_length + extra_length)


def is_torch_zip(path: Path) -> bool:
    """Whether a file that begins as a zip archive does is one of torch.save, perhaps truncated."""
    with path.open("rb") as file:
        header = file.read(_LOCAL_HEADER.size)
        name_length = int.from_bytes(header[26:28], "little")
        first = file.read(name_length).decode(errors="replace")  # torch.save writes the pickle first
    if first.endswith(f"/{PICKLE}"):
        return True
    try:
        return _archive_name([info.filename for info in _read_directory(path)]) is not None
    except FormatError:
        return False


def _archive_name(names: list[str]) -> str | None:
    found = [name.removesuffix(f"/{PICKLE}") for name in names if name.endswith(f"/{PICKLE}") and name.count("/") == 1]
    return found[0] if len(found) == 1 else None


class _Bounded(io.FileIO):
    """A file of which zipfile does not read a directory of more than MAX_DIRECTORY_BYTES."""

    def read(self, size: int | None = -1) -> bytes:
        """Read, or refuse a directory that is too large."""
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile("its directory is too large for a checkpoint")
        return super().read(size)


def _read_directory(path: Path) -> list[zipfile.ZipInfo]:
    state = path.stat()
    return _read_directory_once(path, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=2)
def _read_directory_once(path: Path, _state: tuple[int, ...]) -> list[zipfile.ZipInfo]:
    """Return a file's directory: several formats ask for it until one of them opens the file."""
    # A damaged directory makes zipfile raise nearly anything.
    try:
        with _Bounded(path) as file, zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except OSError as error:
        raise FormatError(path, f"cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, LookupError, ArithmeticError, struct.error) as error:
        raise CorruptFile(path, f"is a zip archive without a readable end ({error}); {DAMAGED}") from error
