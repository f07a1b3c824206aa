"""Write lazy tensors to given offsets of a file, chunk by chunk, on a few threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from zoo.core.tensors import LazyTensor, chunks

Progress = Callable[[int], None]
"""Called with the number of bytes since the last call, from any thread."""

Digest = Callable[[int, memoryview], None]
"""Called as digest(index of the tensor, bytes written) with a tensor's chunks in order."""

WORKERS = 2
"""Threads for writing and comparing. Four are slower: they wait for each other at the file's lock."""


def ignore_progress(nbytes: int) -> None:
    """Ignore progress."""


def write_at(
    path: Path,
    placed: Iterable[tuple[int, LazyTensor]],
    on_bytes: Progress = ignore_progress,
    digest: Digest | None = None,
) -> None:
    """Write each tensor's bytes, in C order, to its offset (in bytes) in an existing file.

    Tensors are written in parallel, each by one thread in order, so memory stays at a few chunks (plus what a tensor's
    load() needs) for files of any size.

    Raises:
        OSError: The disk is full, or the file cannot be written.
        ZooError: A tensor's load() raised it.
    """
    fd = os.open(path, os.O_WRONLY)

    def write(index: int, offset: int, tensor: LazyTensor) -> None:
        for chunk in chunks(tensor.load()):
            data = memoryview(chunk.view(np.uint8).reshape(-1).data)
            if digest:
                digest(index, data)
            pwrite_all(fd, data, offset)
            offset += len(data)
            on_bytes(len(data))

    try:
        with ThreadPoolExecutor(WORKERS) as pool:
            tasks = [pool.submit(write, i, offset, tensor) for i, (offset, tensor) in enumerate(placed)]
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        os.close(fd)


def pwrite_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of data at an offset; os.pwrite may write only a part."""
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
