"""Tokens on disk, memory-mapped: nanoGPT's and llm.c's .bin files, and what writes them.

nanoGPT (data/*/prepare.py): uint16 after uint16, nothing else. llm.c (dev/data/data_common.py): 256 int32 of header
(20240520, version 1, number of tokens), then uint16; version 7 has uint32, for vocabularies above 65536 tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zoo.core.output import atomic_output
from zoo.errors import FormatError, OptionError
from zoo.text.tokenizer import Tokenizer
from zoo.train.data.documents import Continuation

Layout = Literal["nanogpt", "llm.c"]
Tokens = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]

_MAGIC = 20240520
_HEADER = 256  # int32
_BATCH = 1 << 20  # characters that a process tokenises at a time


def open_tokens(path: str | Path) -> Tokens:
    """Map a .bin file of tokens; nothing is read yet.

    Returns:
        (N,) uint16, or uint32 for llm.c's version 7.

    Raises:
        FormatError: it is no such file, or its length is not what its header says.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        header = np.fromfile(path, "<i4", min(_HEADER, size // 4))
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from error
    if size == 0 or size % 2:
        raise FormatError(path, f"has {size:,} bytes, which is no number of uint16 tokens; prepare it again")
    if len(header) == _HEADER and header[0] == _MAGIC:
        kinds = {1: "<u2", 7: "<u4"}
        if header[1] not in kinds:
            raise FormatError(path, f"is of llm.c's version {header[1]}; zoo reads 1 (uint16) and 7 (uint32)")
        dtype, n = np.dtype(kinds[header[1]]), int(header[2])
        if n < 1 or size != _HEADER * 4 + n * dtype.itemsize:
            raise FormatError(path, f"has {size:,} bytes, but its header says {n:,} tokens; it may be cut short")
        return np.memmap(path, dtype, "r", _HEADER * 4, (n,))
    return np.memmap(path, "<u2", "r")


def encode_documents(documents: Iterable[str], tokenizer: Tokenizer, *, processes: int = 1) -> Iterator[Tokens]:
    """Tokenise documents, with <|endoftext|> between them, in constant memory.

    Args:
        documents: texts; a Continuation follows what comes before it without a separator.
        tokenizer: whose ids are wanted.
        processes: that tokenise at the same time.

    Yields:
        parts of the token stream, uint16 or uint32, of any length.
    """
    eos = np.array([] if tokenizer.eos_id is None else [tokenizer.eos_id], _dtype(tokenizer))
    is_first = True
    for batch in _map(tokenizer, _batches(documents), processes):
        for is_new, ids in batch:
            yield np.concatenate([eos, ids]) if is_new and not is_first else ids
            is_first = False


def write_tokens(path: Path, parts: Iterable[Tokens], *, layout: Layout = "nanogpt", force: bool = False) -> int:
    """Write a .bin file as the tokens come, and return their number.

    Raises:
        OptionError: there are none, or they are uint32, which nanoGPT's layout has no place for.
        OutputError: the path exists or cannot be written.
    """
    n, wide = 0, False
    with atomic_output(path, force=force) as temporary, temporary.open("wb") as file:
        if layout == "llm.c":
            file.seek(_HEADER * 4)
        for part in parts:
            wide = part.dtype.itemsize == 4
            if wide and layout == "nanogpt":
                raise OptionError(
                    "this vocabulary has more than 65,536 tokens, which nanogpt's layout cannot hold; use llm.c's"
                )
            file.write(part.astype(part.dtype.newbyteorder("<")).tobytes())
            n += len(part)
        if n == 0:
            raise OptionError(f"there is no text for {path.name}: what was given is empty")
        if layout == "llm.c":
            header = np.zeros(_HEADER, "<i4")
            header[:3] = _MAGIC, 7 if wide else 1, n
            file.seek(0)
            file.write(header.tobytes())
    return n


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Group documents into parcels that are worth sending to another process."""
    batch: list[str] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _map(tokenizer: Tokenizer, batches: Iterator[list[str]], processes: int) -> Iterator[list[tuple[bool, Tokens]]]:
    """Tokenise parcels in order, a few of them under way at a time."""
    if processes <= 1:
        yield from (_encode(tokenizer, batch) for batch in batches)
        return
    from multiprocessing import get_context

    # Forking a process that runs threads, as torch's, may hang it.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_encode, tokenizer, batch) for batch in islice(batches, 2 * processes)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(_encode, tokenizer, batch) for batch in islice(batches, 1)]


def _encode(tokenizer: Tokenizer, documents: list[str]) -> list[tuple[bool, Tokens]]:
    """Return, for each, whether it is a document of its own, and its tokens."""
    dtype = _dtype(tokenizer)
    return [(not isinstance(text, Continuation), np.array(tokenizer.encode(text), dtype)) for text in documents]


def _dtype(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype(np.uint16 if tokenizer.n_vocab <= 1 << 16 else np.uint32)


def count_processes() -> int:
    """How many processes this machine has cores for."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
