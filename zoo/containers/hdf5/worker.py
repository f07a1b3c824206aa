"""A process that reads HDF5 files for reader.py, so that libhdf5 may fail: run as a script, it imports nothing of zoo.

A damaged file of some kB makes libhdf5 fill any memory, run for ever or crash. Here it has little of both: a request
that needs more ends the process, and whoever asked says that the file is damaged.

A request is a line of JSON, {"number": ..., "path": ...}, or with "name" for the values of one array. The answer is
one too, with the same number: {"arrays": ...}, {"nbytes": ...} followed by as many bytes, or {"error": "corrupt" or
"unsafe", "problem": ...}.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MAX_DEPTH = 16  # of groups in groups; Keras needs 6
_MAX_NAMES = 10_000  # of groups and arrays; Keras Hub needs some 50 for a block
_MEMORY = 64 << 20  # bytes beyond what the process takes by itself
_SECONDS = 0.6  # of processor time, and one more for each of so many bytes:
_BYTES_A_SECOND = 50 << 20


class Refused(Exception):
    """The file cannot be read: ("corrupt" or "unsafe", reason)."""


def main() -> None:
    """Answer requests until there are no more."""
    import h5py  # type: ignore[import-untyped]

    for _ in range(h5py.h5pl.size()):
        h5py.h5pl.remove(0)  # a directory where libhdf5 looks for code of filters that a file names

    used = _address_space()
    for line in sys.stdin:
        request = json.loads(line)
        size = Path(request["path"]).stat().st_size
        if used:
            import resource

            room = used + _MEMORY + (4 * size if "name" in request else 0)
            resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))
            signal.setitimer(signal.ITIMER_PROF, _SECONDS + size / _BYTES_A_SECOND)  # its signal terminates the process
        _answer(h5py, request, size)
        if used:
            signal.setitimer(signal.ITIMER_PROF, 0)


def _address_space() -> int:
    """Bytes in use before there is a file; 0 where the system does not tell: there are no limits then."""
    statm = Path("/proc/self/statm")  # of Linux
    return int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def _answer(h5py: Any, request: dict[str, Any], size: int) -> None:
    content = b""
    try:
        with h5py.File(request["path"], "r") as file:
            if "name" in request:
                content = file[request["name"]][()].tobytes()
                answer: dict[str, Any] = {"nbytes": len(content)}
            else:
                answer = {"arrays": [_describe(h5py, size, name, array) for name, array in _arrays(h5py, file)]}
    except Refused as error:
        answer = {"error": error.args[0], "problem": error.args[1]}
    except MemoryError:
        os._exit(1)
    except Exception as error:  # h5py raises many exceptions for damaged files
        first = (str(error) or type(error).__name__).splitlines()[0]
        answer = {"error": "corrupt", "problem": f"is not a valid HDF5 file ({first}); copy or download it again"}
    answer["number"] = request["number"]
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + content)
    sys.stdout.buffer.flush()


def _arrays(h5py: Any, file: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and array of everything in all groups."""
    groups, seen, n_names = [("", file)], set(), 0
    while groups:
        prefix, group = groups.pop()
        place = h5py.h5o.get_info(group.id).addr
        if place in seen or prefix.count("/") > _MAX_DEPTH:
            raise Refused("corrupt", f"its group {prefix!r} is inside itself, or deeper than any of Keras")
        seen.add(place)
        for key in group:
            name = f"{prefix}{key}"
            n_names += 1
            if n_names > _MAX_NAMES:
                raise Refused("corrupt", f"has more than {_MAX_NAMES:,} names; it is not a checkpoint of a GPT-2")
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise Refused("unsafe", f"{name} is a link, which may lead elsewhere; it is not followed")
            item = group[key]
            if isinstance(item, h5py.Group):
                groups.append((f"{name}/", item))
            elif isinstance(item, h5py.Dataset):
                yield name, item


def _describe(h5py: Any, size: int, name: str, array: Any) -> dict[str, Any]:
    """Say what an array is, and where its bytes lie; "offset" is None where they lie in several places."""
    if array.is_virtual or array.external:
        raise Refused("unsafe", f"the values of {name} are in another file, which is not opened")
    shape, dtype = array.shape, _dtype(array)
    if dtype is None or shape is None:
        raise Refused("corrupt", f"{name} has values of a type that zoo does not know ({array.dtype})")
    nbytes = math.prod(shape) * array.dtype.itemsize
    if nbytes > size:
        raise Refused("corrupt", f"{name} {shape} would be larger than the file; copy it again")
    offset: int | None = 0
    if nbytes and array.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
        offset = None
    elif nbytes:
        offset = array.id.get_offset()
        if offset is None or array.id.get_storage_size() != nbytes or offset + nbytes > size:
            raise Refused("corrupt", f"the bytes of {name} are not there; the file may be truncated")
    return {"name": name, "shape": shape, "dtype": dtype, "offset": offset}


def _dtype(array: Any) -> str | None:
    """The dtype of an array's values, None for what no weights are made of."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2 and array.attrs.get("dtype") == "bfloat16":
        return "bfloat16"
    return array.dtype.str if array.dtype.kind in "biuf" else None


if __name__ == "__main__":
    main()
