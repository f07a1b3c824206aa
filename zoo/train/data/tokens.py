"""Read and write files of tokens (.bin) in the layouts of nanoGPT and llm.c, memory-mapped.

nanoGPT (data/*/prepare.py): uint16 values and nothing else. llm.c (dev/data/data_common.py): a header of 256 int32
(20240520, version 1, number of tokens), then uint16 values; version 7 has uint32 values, for vocabularies above 65,536
tokens.
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
_TOKENIZER_MAGIC = 20240328
_HEADER = 256  # int32 values
_BATCH = 1 << 20  # characters per batch that is sent to a process


def open_tokens(path: str | Path) -> Tokens:
    """Map a .bin file of tokens without reading it.

    Returns:
        Tokens, (N,) uint16, or uint32 for llm.c's version 7.

    Raises:
        FormatError: The file is not a token file, or its length differs from the one in its header.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        header = np.fromfile(path, "<i4", min(_HEADER, size // 4))
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from error
    if size == 0 or size % 2:
        raise FormatError(path, f"has {size:,} bytes, an odd number, so it cannot be uint16 tokens; prepare it again")
    if len(header) == _HEADER and header[0] == _MAGIC:
        kinds = {1: "<u2", 7: "<u4"}
        if header[1] not in kinds:
            raise FormatError(path, f"has llm.c's version {header[1]}; zoo reads versions 1 (uint16) and 7 (uint32)")
        dtype, n = np.dtype(kinds[header[1]]), int(header[2])
        if n < 1 or size != _HEADER * 4 + n * dtype.itemsize:
            raise FormatError(path, f"has {size:,} bytes, but its header says {n:,} tokens; it may be truncated")
        return np.memmap(path, dtype, "r", _HEADER * 4, (n,))
    return np.memmap(path, "<u2", "r")


def encode_documents(
    documents: Iterable[str], tokenizer: Tokenizer, *, processes: int = 1, leading: bool = False
) -> Iterator[Tokens]:
    """Tokenise documents, separated by <|endoftext|>, in constant memory.

    Args:
        documents: Texts. No separator is written before a Continuation.
        tokenizer: Tokenizer to use.
        processes: Number of processes that tokenise in parallel.
        leading: Whether <|endoftext|> is written before the first document, too.

    Yields:
        Parts of the token stream, uint16 or uint32, of any length.
    """
    eos = np.array([] if tokenizer.eos_id is None else [tokenizer.eos_id], _dtype(tokenizer))
    is_first = True
    for batch in _map(tokenizer, _batches(documents), processes):
        for is_new, ids in batch:
            yield np.concatenate([eos, ids]) if is_new and (leading or not is_first) else ids
            is_first = False


def write_tokens(path: Path, parts: Iterable[Tokens], *, layout: Layout = "nanogpt", force: bool = False) -> int:
    """Write tokens to a .bin file as they arrive and return their number.

    Args:
        path: of the file.
        parts: pieces of the token stream, each (N,).
        layout: "nanogpt" for bare tokens, "llm.c" with a header.
        force: whether an existing file may be replaced.

    Raises:
        OptionError: There are no tokens, or they are uint32, which nanoGPT's layout cannot hold.
        OutputError: The path exists or cannot be written.
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
            raise OptionError(f"there is no text for {path.name}: the sources are empty")
        if layout == "llm.c":
            header = np.zeros(_HEADER, "<i4")
            header[:3] = _MAGIC, 7 if wide else 1, n
            file.seek(0)
            file.write(header.tobytes())
    return n


def write_tokenizer(path: Path, tokenizer: Tokenizer, *, force: bool = False) -> int:
    """Write the tokenizer file from which llm.c prints text (gpt2_tokenizer.bin) and return the number of tokens.

    256 int32 (20240328, version 2, number of tokens, the token that ends a text), then the length of each token in a
    byte, and its bytes, as train_gpt2.py's write_tokenizer.

    Args:
        path: of the file.
        tokenizer: with a byte-level BPE vocabulary.
        force: whether an existing file may be replaced.

    Raises:
        OptionError: The vocabulary is of another kind, no token ends a text, or a token is too long.
        OutputError: The path exists or cannot be written.
    """
    if tokenizer.eos_id is None:
        raise OptionError("llm.c needs a token that ends a text, and this vocabulary has none")
    tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.n_vocab)]
    if longest := max((token for token in tokens if len(token) > 255), key=len, default=b""):
        raise OptionError(f"llm.c has no room for a token of {len(longest):,} bytes ({longest[:20]!r}...)")
    header = np.zeros(_HEADER, "<i4")
    header[:4] = _TOKENIZER_MAGIC, 2, len(tokens), tokenizer.eos_id
    with atomic_output(path, force=force) as temporary:
        temporary.write_bytes(header.tobytes() + b"".join(bytes([len(token)]) + token for token in tokens))
    return len(tokens)


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Group documents into batches that are large enough to send to another process."""
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
    """Tokenise batches in parallel and yield the results in order; only a few batches are in progress at a time."""
    if processes <= 1:
        yield from (_encode(tokenizer, batch) for batch in batches)
        return
    from multiprocessing import get_context

    # Forking a process that has threads, such as torch's, can deadlock.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_encode, tokenizer, batch) for batch in islice(batches, 2 * processes)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(_encode, tokenizer, batch) for batch in islice(batches, 1)]


def _encode(tokenizer: Tokenizer, documents: list[str]) -> list[tuple[bool, Tokens]]:
    """Return, for each text, whether it starts a document, and its tokens."""
    dtype = _dtype(tokenizer)
    return [(not isinstance(text, Continuation), np.array(tokenizer.encode(text), dtype)) for text in documents]


def _dtype(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype(np.uint16 if tokenizer.n_vocab <= 1 << 16 else np.uint32)


def count_processes() -> int:
    """Return the number of processes that this machine has cores for."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
