"""GPT-2's own vocabulary, made from the 200 kB of merges in the package, and its byte alphabet.

A token is written in vocab.json as printable text: each of its bytes stands as one character of a fixed alphabet (a
space is written "Ġ"). In GPT-2's vocabulary token 256 + k is what merge k makes, so the pairs of ids of its 50,000
merges determine the vocabulary: they are the packaged file.
"""

from __future__ import annotations

import functools
import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

END_OF_TEXT: Final = "<|endoftext|>"
GPT2_N_TOKENS: Final = 50257
GPT2_SHA256: Final = (
    "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",  # vocab.json, OpenAI's encoder.json
    "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",  # merges.txt, OpenAI's vocab.bpe
)
GPT2_MERGES: Final = Path(__file__).parents[1] / "data" / "gpt2-merges.bin"
"""Two little-endian uint16 a merge: the ids of its left and right token. Made by tools/make_vocabulary.py."""


def _alphabet() -> list[tuple[int, str]]:
    """Return (byte, character that stands for it) in the order of GPT-2's first 256 ids."""
    # Printable characters stand for themselves.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [(b, chr(b)) for b in printable] + [(b, chr(256 + i)) for i, b in enumerate(others)]


ALPHABET: Final = _alphabet()
_BYTE_OF = {char: byte for byte, char in ALPHABET}


def token_bytes(text: str) -> bytes:
    """Return the bytes of a token as vocab.json writes it; text outside the alphabet stands for itself."""
    try:
        return bytes([_BYTE_OF[char] for char in text])
    except KeyError:
        return text.encode("utf-8", "replace")


def gpt2_tokens() -> list[bytes]:
    """Return GPT-2's 256 bytes and 50,000 merged tokens in the order of their ids, without <|endoftext|>."""
    tokens = [bytes([byte]) for byte, _ in ALPHABET]
    for left, right in struct.iter_unpack("<HH", GPT2_MERGES.read_bytes()):
        tokens.append(tokens[left] + tokens[right])
    return tokens


@functools.lru_cache(maxsize=1)
def gpt2_tables() -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    """Return GPT-2's tokens with their ids, and its merges, as in the files; callers must not change the dict."""
    tokens, merges = [char for _, char in ALPHABET], []
    for left, right in struct.iter_unpack("<HH", GPT2_MERGES.read_bytes()):
        merges.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    return {token: i for i, token in enumerate([*tokens, END_OF_TEXT])}, tuple(merges)


def are_gpt2_files(vocab_json: bytes, merges_txt: bytes) -> bool:
    """Return whether two files are OpenAI's, byte for byte."""
    return tuple(hashlib.sha256(data).hexdigest() for data in (vocab_json, merges_txt)) == GPT2_SHA256


def gpt2_files() -> tuple[bytes, bytes]:
    """Return the content of vocab.json and merges.txt, byte for byte as OpenAI published them."""
    ids, pairs = gpt2_tables()
    merges = "".join(f"{left} {right}\n" for left, right in pairs)
    return json.dumps(ids).encode(), f"#version: 0.2\n{merges}".encode()


class GPT2Files(Mapping[str, bytes]):
    """The content of vocab.json and merges.txt, built on first access; generating text needs neither."""

    _names: Final = ("vocab.json", "merges.txt")

    @functools.cached_property
    def _content(self) -> dict[str, bytes]:
        return dict(zip(self._names, gpt2_files(), strict=True))

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> bytes:
        return self._content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
