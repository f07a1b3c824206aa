"""The tokens of a run: tokenised once into the run directory, or mapped from an existing .bin file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.api.checkpoints import open_checkpoint
from zoo.errors import OptionError
from zoo.text.tokenizer import Tokenizer
from zoo.train.data.documents import Continuation, cut_characters, find_texts, read_documents
from zoo.train.data.tokens import (
    Layout,
    Tokens,
    count_processes,
    encode_documents,
    open_tokens,
    write_tokenizer,
    write_tokens,
)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The texts that a run is trained and validated on.

    Attributes:
        train: Texts (files, directories, patterns, "-" for stdin), or one .bin file of tokens.
        val: The same for validation; if it is empty, the end of train is used.
        val_fraction: Fraction of train's characters (tokens, for a .bin file), at its end, that is used for validation.
        field: Key of the text in the objects of .jsonl files.
    """

    train: tuple[str, ...]
    val: tuple[str, ...] = ()
    val_fraction: float = 0.1
    field: str = "text"

    def __post_init__(self) -> None:
        if not self.train:
            raise OptionError("there is no text to train on; give files, directories or a .bin file of tokens")
        if not 0 <= self.val_fraction < 1:
            raise OptionError(f"the validation fraction must be in [0, 1), not {self.val_fraction}")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Sources:
        """Build an object from its fields by name."""
        return cls(**{**fields, "train": tuple(fields["train"]), "val": tuple(fields["val"])})

    def absolute(self) -> Sources:
        """Return a copy in which .bin paths are absolute, so that the run can be resumed from any directory.

        Raises:
            FormatError: A .bin path or pattern matches no file.
        """
        return replace(self, train=_absolute(self.train), val=_absolute(self.val))


def prepare(sources: Sources, tokenizer: Tokenizer, directory: Path) -> None:
    """Write train.bin and val.bin in llm.c's layout into an existing directory, except for sources that are .bin files.

    Raises:
        FormatError: A text cannot be read.
        OutputError: A file cannot be written, for example because the disk is full.
    """
    if not _is_bin(sources.train):
        documents = _documents(sources.train, sources.field)
        if sources.val or not sources.val_fraction:
            _write(directory / "train.bin", documents, tokenizer)
        else:
            if "-" in sources.train:  # stdin cannot be read twice
                held = list(documents)
                n, documents = sum(map(len, held)), iter(held)
            else:
                n = sum(map(len, _documents(sources.train, sources.field)))
            first, second = cut_characters(documents, int((1 - sources.val_fraction) * n))
            _write(directory / "train.bin", first, tokenizer)
            _write(directory / "val.bin", second, tokenizer)
    if sources.val and not _is_bin(sources.val):
        _write(directory / "val.bin", _documents(sources.val, sources.field), tokenizer)


def open_corpus(sources: Sources, directory: Path) -> tuple[Tokens, Tokens | None]:
    """Map the tokens for training and, if there are any, for validation.

    Args:
        sources: The sources that were given to prepare.
        directory: The directory that was given to prepare.

    Raises:
        FormatError: A .bin file is missing or not a file of tokens.
    """
    train = open_tokens(Path(sources.train[0]) if _is_bin(sources.train) else directory / "train.bin")
    if sources.val:
        return train, open_tokens(Path(sources.val[0]) if _is_bin(sources.val) else directory / "val.bin")
    if not sources.val_fraction:
        return train, None
    if _is_bin(sources.train):
        n = int((1 - sources.val_fraction) * len(train))
        return train[:n], train[n:]
    return train, open_tokens(directory / "val.bin")


def check_ids(tokens: Tokens, vocab_size: int, path: Path | str) -> None:
    """Raise an error if tokens contain an id that the model does not have. Reads them in chunks.

    Raises:
        OptionError: There is such an id.
    """
    for start in range(0, len(tokens), 1 << 22):
        if (highest := int(tokens[start : start + (1 << 22)].max())) >= vocab_size:
            raise OptionError(f"{path} has token id {highest}, but the model's ids are 0 to {vocab_size - 1}")


def _absolute(sources: Sequence[str]) -> tuple[str, ...]:
    found: list[str] = []
    for source in sources:
        is_bin = Path(source).suffix == ".bin"
        found += [str(path.absolute()) for path in find_texts([source])] if is_bin else [source]
    return tuple(found)


def _is_bin(sources: Sequence[str]) -> bool:
    suffixes = [Path(source).suffix == ".bin" for source in sources]
    if any(suffixes) and len(sources) > 1:
        raise OptionError("give either one .bin file of tokens or any number of texts; they cannot be combined")
    return any(suffixes)


def _documents(sources: Sequence[str], field: str) -> Iterator[str]:
    for path in find_texts(sources):
        yield from read_documents(path, field=field)


def _write(path: Path, documents: Iterator[str], tokenizer: Tokenizer) -> None:
    # Starting processes takes longer than tokenising a few megabytes.
    write_tokens(path, encode_documents(documents, tokenizer), layout="llm.c", force=True)


def prepare_file(
    texts: Sequence[str],
    out: Path,
    *,
    layout: Layout = "llm.c",
    tokenizer: str | None = None,
    field: str = "text",
    processes: int | None = None,
    force: bool = False,
) -> tuple[int, int]:
    """Write one .bin file of tokens from texts, in constant memory.

    <|endoftext|> is written between documents, and in llm.c's layout before the first one, as its scripts do.

    Args:
        texts: Texts, as in Sources.train.
        out: Path of the output file.
        layout: Layout of the file, nanoGPT's or llm.c's.
        tokenizer: Path of a checkpoint whose vocabulary is used; None means GPT-2's.
        field: Key of the text in the objects of .jsonl files.
        processes: Number of tokenising processes; None means one per core.
        force: Whether to replace an existing file.

    Returns:
        The numbers of tokens and of documents.

    Raises:
        FormatError: A text cannot be read.
        OptionError: There is no text, or the layout cannot hold the vocabulary.
        OutputError: The file exists or cannot be written.
    """
    vocabulary = open_checkpoint(tokenizer)[1].vocabulary if tokenizer else None
    n_documents = 0

    def counted() -> Iterator[str]:
        nonlocal n_documents
        for document in _documents(texts, field):
            n_documents += not isinstance(document, Continuation)
            yield document

    # llm.c's scripts begin with the separator, nanoGPT's end with it.
    options: dict[str, Any] = {"processes": processes or count_processes(), "leading": layout == "llm.c"}
    parts = encode_documents(counted(), Tokenizer(vocabulary), **options)
    n_tokens = write_tokens(out, parts, layout=layout, force=force)
    return n_tokens, n_documents


def prepare_tokenizer(out: Path, *, tokenizer: str | None = None, force: bool = False) -> int:
    """Write llm.c's tokenizer file and return the number of tokens.

    Args:
        out: Path of the output file.
        tokenizer: Path of a checkpoint whose vocabulary is used; None means GPT-2's.
        force: Whether to replace an existing file.

    Raises:
        OptionError: The vocabulary has no place in it.
        OutputError: The file exists or cannot be written.
    """
    vocabulary = open_checkpoint(tokenizer)[1].vocabulary if tokenizer else None
    return write_tokenizer(out, Tokenizer(vocabulary), force=force)
