"""The two files of a GPT-2-style byte-level BPE vocabulary, and the 200 kB from which GPT-2's own are made.

A token is written in encoder.json as printable text: each of its bytes stands as one character of a fixed
alphabet (a space is written "Ġ"). vocab.bpe lists the merges, most important first. In GPT-2's vocabulary
token 256 + k is what merge k makes, so the pairs of ids of its 50,000 merges say everything: they are the
packaged file.
"""

from __future__ import annotations

import functools
import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from zoo.core.paths import check_file, check_json, check_not_lfs, is_there
from zoo.errors import FormatError

END_OF_TEXT: Final = "<|endoftext|>"
GPT2_N_TOKENS: Final = 50257
GPT2_SHA256: Final = (
    "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",  # encoder.json
    "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",  # vocab.bpe
)
GPT2_MERGES: Final = Path(__file__).parents[1] / "data" / "gpt2-merges.bin"
"""Two little-endian uint16 a merge: the ids of its left and right token. Made by tools/make_vocabulary.py."""

OPENAI_NAMES: Final = ("encoder.json", "vocab.bpe")
HF_NAMES: Final = ("vocab.json", "merges.txt")
ADDED_NAME: Final = "added_tokens.json"

_MAX_MERGE = 1 << 14  # letters of a line

Merges = tuple[tuple[str, str], ...]


def _alphabet() -> list[tuple[int, str]]:
    """(byte, character that stands for it) in the order of GPT-2's first 256 ids."""
    # Printable characters stand for themselves.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [(b, chr(b)) for b in printable] + [(b, chr(256 + i)) for i, b in enumerate(others)]


ALPHABET: Final = _alphabet()
_CHAR_OF = dict(ALPHABET)
_BYTE_OF = {char: byte for byte, char in ALPHABET}


def written(token: bytes) -> str:
    """A token's bytes as encoder.json writes them."""
    return token.decode("latin-1").translate(_CHAR_OF)


def token_bytes(text: str) -> bytes:
    """The bytes of a token as encoder.json writes it; text outside the alphabet stands for itself."""
    try:
        return bytes([_BYTE_OF[char] for char in text])
    except KeyError:
        return text.encode("utf-8", "replace")


def gpt2_tokens() -> list[bytes]:
    """GPT-2's 256 bytes and 50,000 merged tokens in the order of their ids, without <|endoftext|>."""
    tokens = [bytes([byte]) for byte, _ in ALPHABET]
    for left, right in struct.iter_unpack("<HH", GPT2_MERGES.read_bytes()):
        tokens.append(tokens[left] + tokens[right])
    return tokens


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE vocabulary, exactly as its files say it.

    Attributes:
        encoder_json: content of encoder.json, which Hugging Face calls vocab.json: token -> id.
        vocab_bpe: content of vocab.bpe, which Hugging Face calls merges.txt.
        added_tokens_json: content of Hugging Face's added_tokens.json, token -> id; empty if none.
        paths: where the three came from, for error messages.

    Two vocabularies are == if their bytes are; is_gpt2 compares what the bytes mean.
    """

    encoder_json: bytes
    vocab_bpe: bytes
    added_tokens_json: bytes = b""
    paths: tuple[Path, Path, Path] = field(
        default=(Path(OPENAI_NAMES[0]), Path(OPENAI_NAMES[1]), Path(ADDED_NAME)), compare=False, repr=False
    )

    @classmethod
    def gpt2(cls) -> Vocabulary:
        """OpenAI's own files, byte for byte."""
        return _gpt2()

    @classmethod
    def read(
        cls,
        directory: Path | str,
        known_names: Iterable[tuple[str, str]] = (OPENAI_NAMES, HF_NAMES),
        root: Path | None = None,
    ) -> Vocabulary | None:
        """The vocabulary in a directory, under one of the pairs of file names; None if there is none.

        Args:
            directory: where the files are.
            known_names: pairs of names to look for.
            root: the checkpoint's directory, if it is another one.

        Raises:
            FormatError: one file of the two is missing, or one of them is damaged.
            UnsafeFile: one of them is a link out of the checkpoint.
        """
        for names in known_names:
            encoder, merges, added = (Path(directory) / name for name in (*names, ADDED_NAME))
            present = [path for path in (encoder, merges) if is_there(path)]
            if len(present) == 1:
                missing = merges if present[0] == encoder else encoder
                raise FormatError(missing, f"is missing beside {present[0].name}; put both there or neither")
            if present:
                paths = (encoder, merges, added)
                for path in (*present, *([added] if is_there(added) else [])):
                    check_file(path, Path(directory) if root is None else root)
                added_bytes = added.read_bytes() if is_there(added) else b""
                return cls(encoder.read_bytes(), merges.read_bytes(), added_bytes, paths)._checked()
        return None

    @classmethod
    def from_json(cls, text: str, path: Path | str = "embedded vocabulary") -> Vocabulary:
        """The vocabulary that to_json() wrote; path is the file it was embedded in, for error messages.

        Raises:
            FormatError: the text is not one that to_json() writes.
        """
        fields = _parse_json(text.encode("utf-8", "replace"), path)
        if fields == {"name": "gpt2"}:
            return _gpt2()
        names = (*OPENAI_NAMES, ADDED_NAME)
        if not isinstance(fields, dict) or sorted(fields) != sorted(names):
            raise FormatError(path, "holds no vocabulary that zoo wrote; write the file again")
        if not all(isinstance(value, str) for value in fields.values()):
            raise FormatError(path, "holds a vocabulary whose files are not text; write the file again")
        encoder, merges, added = (fields[name].encode("utf-8", "replace") for name in names)
        return cls(encoder, merges, added, (Path(path), Path(path), Path(path)))._checked()

    def to_json(self) -> str:
        """The vocabulary as one string, for a file's metadata; GPT-2's, however spelled, is only its name."""
        if self.is_gpt2:
            return '{"name": "gpt2"}'
        contents = (self.encoder_json, self.vocab_bpe, self.added_tokens_json)
        return json.dumps({n: c.decode() for n, c in zip((*OPENAI_NAMES, ADDED_NAME), contents, strict=True)})

    def files(self, names: tuple[str, str] = OPENAI_NAMES) -> dict[str, bytes]:
        """What to write beside a checkpoint, by file name; names is OPENAI_NAMES or HF_NAMES."""
        files = dict(zip(names, (self.encoder_json, self.vocab_bpe), strict=True))
        return files | {ADDED_NAME: self.added_tokens_json} if self.added_tokens_json else files

    @cached_property
    def is_gpt2(self) -> bool:
        """Whether these are GPT-2's tokens, ids and merges, in whatever order and spacing."""
        if self._is_gpt2_bytes:
            return True
        gpt2 = _gpt2()
        return self.n_tokens == GPT2_N_TOKENS and self.tokens == gpt2.tokens and self.merges == gpt2.merges

    @cached_property
    def n_tokens(self) -> int:
        """One more than the largest id: the rows an embedding needs."""
        return GPT2_N_TOKENS if self._is_gpt2_bytes else max(self.tokens.values()) + 1

    @cached_property
    def tokens(self) -> dict[str, int]:
        """Token, as encoder.json writes it, -> id; added tokens too."""
        tokens = _parse_tokens(self.encoder_json, self.paths[0])
        if not tokens:
            raise FormatError(self.paths[0], "holds no tokens; copy the file again")
        tokens |= self.added_tokens
        if len(set(tokens.values())) != len(tokens):
            raise FormatError(self.paths[0], "gives two tokens the same id; correct it so that each has its own")
        return tokens

    @cached_property
    def added_tokens(self) -> dict[str, int]:
        """The tokens of added_tokens.json -> id."""
        return _parse_tokens(self.added_tokens_json, self.paths[2]) if self.added_tokens_json else {}

    @cached_property
    def merges(self) -> Merges:
        """The pairs of tokens that BPE joins, most important first."""
        return _parse_merges(self.vocab_bpe, self.paths[1])

    @cached_property
    def _is_gpt2_bytes(self) -> bool:
        digests = tuple(hashlib.sha256(data).hexdigest() for data in (self.encoder_json, self.vocab_bpe))
        return digests == GPT2_SHA256 and not self.added_tokens_json

    def _checked(self) -> Vocabulary:
        """Self, if its files parse: a damaged file is reported when it is read, not when used."""
        if not self._is_gpt2_bytes:
            _ = self.tokens, self.merges
        return self


@functools.lru_cache(maxsize=1)
def _gpt2() -> Vocabulary:
    tokens = [written(token) for token in gpt2_tokens()]
    encoder = json.dumps({token: i for i, token in enumerate([*tokens, END_OF_TEXT])})
    pairs = struct.iter_unpack("<HH", GPT2_MERGES.read_bytes())
    merges = "".join(f"{tokens[left]} {tokens[right]}\n" for left, right in pairs)
    return Vocabulary(encoder.encode(), f"#version: 0.2\n{merges}".encode())


def _text(data: bytes, path: Path | str) -> str:
    check_not_lfs(data, path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(path, f"is not UTF-8 text ({error}); copy the file again") from error


def _parse_json(data: bytes, path: Path | str) -> Any:
    text = _text(data, path)
    check_json(data, path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(path, f"is not JSON ({error}); copy the file again") from error


def _parse_tokens(data: bytes, path: Path) -> dict[str, int]:
    tokens = _parse_json(data, path)
    if not isinstance(tokens, Mapping):
        raise FormatError(path, f"holds a JSON {type(tokens).__name__}, not tokens and ids; copy it again")
    for token, i in tokens.items():
        if not token:
            raise FormatError(path, "holds a token without any letter; take it out")
        if type(i) is not int or not 0 <= i < 2**31:
            raise FormatError(path, f"has {i!r} as id of {token!r}, not an integer; copy the file again")
    return dict(tokens)


def _parse_merges(data: bytes, path: Path) -> Merges:
    merges = []
    # Only \n ends a line here: str.splitlines would also break at characters that tokens may hold.
    for number, line in enumerate(_text(data, path).split("\n"), start=1):
        pair = line.removesuffix("\r").split(" ")
        if pair == [""] or (number == 1 and line.startswith("#version")):
            continue
        if len(line) > _MAX_MERGE:
            raise FormatError(
                path, f"line {number} has {len(line):,} letters, too many for a token; copy the file again"
            )
        if len(pair) != 2 or not all(pair):
            raise FormatError(path, f"line {number} is {line[:80]!r}, not two tokens; copy the file again")
        merges.append((pair[0], pair[1]))
    return tuple(merges)
