"""Vocabulary: the tokenizer files of a checkpoint, unchanged, and its special tokens.

A vocabulary that zoo cannot read is still carried along: only text is refused, never the weights.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from zoo.core.paths import check_file, is_there
from zoo.errors import FormatError
from zoo.text.gpt2 import END_OF_TEXT, GPT2_N_TOKENS, GPT2Files, are_gpt2_files, gpt2_tables
from zoo.text.parsing import Merges, parse_object
from zoo.text.special_tokens import SpecialTokens, ids
from zoo.text.vocabulary_files import BYTE_LEVEL, SENTENCEPIECE, Contents, read_contents

OPENAI_NAMES: Final = ("encoder.json", "vocab.bpe")
HF_NAMES: Final = ("vocab.json", "merges.txt")
KERAS_NAMES: Final = ("vocabulary.json", "merges.txt")
ADDED_NAME: Final = "added_tokens.json"

_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
_NAMES: Final = {
    **{name: name for name in (*HF_NAMES, ADDED_NAME, "tokenizer.json", *_SETTINGS, "vocab.txt", *SENTENCEPIECE)},
    **dict(zip(OPENAI_NAMES, HF_NAMES, strict=True)),
    **dict(zip(KERAS_NAMES, HF_NAMES, strict=True)),
}
"""Names under which the files are found -> Hugging Face's names."""

_SPECIAL = "special_tokens"

GPT2_SPECIAL: Final = SpecialTokens((GPT2_N_TOKENS - 1,), GPT2_N_TOKENS - 1)


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer files of a checkpoint, exactly as they are; without any, the model has ids but no text.

    Attributes:
        content: name of a file, in Hugging Face's spelling -> its bytes.
        declared: the special tokens that the checkpoint's other files declare; None where they do not.
        paths: where the files lie, by the same names, for error messages.

    Two vocabularies are == if their bytes and special tokens are; is_gpt2 compares what the bytes mean.
    """

    content: Mapping[str, bytes] = field(default_factory=dict)
    declared: SpecialTokens | None = None
    paths: Mapping[str, Path] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def gpt2(cls) -> Vocabulary:
        """Return OpenAI's own files, byte for byte."""
        return _gpt2()

    @classmethod
    def byte_level(cls, vocab_json: bytes, merges_txt: bytes, added_tokens_json: bytes = b"") -> Vocabulary:
        """Return the byte-level BPE vocabulary of two files, and of a third one for added tokens."""
        files = dict(zip(HF_NAMES, (vocab_json, merges_txt), strict=True))
        return cls(files | {ADDED_NAME: added_tokens_json} if added_tokens_json else files)

    @classmethod
    def read(cls, directory: Path | str, root: Path | None = None) -> Vocabulary:
        """Read the tokenizer files of a directory; none of them has to be there, or be intact.

        Args:
            directory: where the files are.
            root: the checkpoint's directory, if it is another one.

        Raises:
            UnsafeFile: a file is a link out of the checkpoint.
        """
        paths: dict[str, Path] = {}
        for name, canonical in _NAMES.items():
            if canonical not in paths and is_there(path := Path(directory) / name):
                check_file(path, Path(directory) if root is None else root)
                paths[canonical] = path
        return cls({name: path.read_bytes() for name, path in paths.items()}, paths=paths)

    @classmethod
    def from_json(cls, text: str, path: Path | str = "embedded vocabulary") -> Vocabulary:
        """Return the vocabulary that to_json() wrote; path is the file it was embedded in, for error messages.

        Raises:
            FormatError: the text is not one that to_json() writes.
        """
        fields = parse_object(text.encode("utf-8", "replace"), path)
        special = fields.pop(_SPECIAL, None)
        declared = None if special is None else SpecialTokens.from_dict(special)
        if fields == {"name": "gpt2"}:
            return _gpt2() if declared is None else replace(_gpt2(), declared=declared)
        content: dict[str, bytes] = {}
        for name, value in fields.items():
            try:
                data = base64.b64decode(value["base64"]) if isinstance(value, dict) else value.encode()
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise FormatError(path, f"holds a vocabulary whose {name} is not text; write the file again") from error
            if name not in _NAMES:
                raise FormatError(path, "holds no vocabulary that zoo wrote; write the file again")
            content[_NAMES[name]] = data
        return cls(content, declared, {name: Path(path, name) for name in content})

    def to_json(self) -> str:
        """Return the vocabulary as one string, for a file's metadata; GPT-2's, however spelled, is only its name."""
        fields: dict[str, object] = {"name": "gpt2"}
        if not self.is_gpt2:
            fields = {name: _as_text(data) for name, data in self.content.items()}
        return json.dumps(fields if self.declared is None else {**fields, _SPECIAL: self.declared.to_dict()})

    def pair(self, names: tuple[str, str] = HF_NAMES) -> dict[str, bytes]:
        """Return the files of a byte-level BPE vocabulary for formats that hold two files and added tokens.

        The files of the checkpoint are returned unchanged, unless its tokenizer.json says more than they do.
        """
        contents, content = self.contents, self.content
        if self.reads_itself and "tokenizer.json" in content:
            added = {text: token.id for text, token in contents.added.items() if text != END_OF_TEXT}
            plain = {text: i for text, i in contents.tokens.items() if text not in added}
            lines = ["#version: 0.2", *(f"{left} {right}" for left, right in contents.merges), ""]
            made = (json.dumps(plain).encode(), "\n".join(lines).encode(), json.dumps(added).encode() if added else b"")
            derived = Vocabulary.byte_level(*made)
            older = Vocabulary({name: content[name] for name in (*HF_NAMES, ADDED_NAME) if name in content})
            same = (older.tokens, older.contents.merges) == (derived.tokens, contents.merges)
            content = older.content if same else derived.content
        renamed = dict(zip(HF_NAMES, names, strict=True))
        return {renamed.get(name, name): content[name] for name in (*HF_NAMES, ADDED_NAME) if name in content}

    @cached_property
    def contents(self) -> Contents:
        """The parsed files; damaged files raise no error."""
        return read_contents(self.content, lambda name: self.paths.get(name, Path(name)))

    @cached_property
    def is_gpt2(self) -> bool:
        """Whether these are GPT-2's tokens, ids and merges, in any order and spacing."""
        if self._is_gpt2_bytes:
            return True
        if not self.is_plain or self.n_tokens != GPT2_N_TOKENS or self.contents.added.keys() - {END_OF_TEXT}:
            return False
        return (self.tokens, self.merges) == gpt2_tables()

    @property
    def is_plain(self) -> bool:
        """Whether this is byte-level BPE that splits text exactly as GPT-2 does, which many formats can hold."""
        return self.reads_itself and not self.contents.add_prefix_space

    @property
    def reads_itself(self) -> bool:
        """Whether zoo encodes with it without the package tokenizers."""
        return self.contents.kind == BYTE_LEVEL and not self.contents.problem

    @property
    def problem(self) -> str:
        """Why text cannot be encoded and decoded, "" if it can, as far as the files show."""
        if self._is_gpt2_bytes:
            return ""
        contents = self.contents
        return contents.problem or ("" if contents.kind else "the checkpoint has no vocabulary")

    @cached_property
    def n_tokens(self) -> int:
        """One more than the largest id: the rows an embedding needs; 0 where there is no vocabulary."""
        return GPT2_N_TOKENS if self._is_gpt2_bytes else max(self.tokens.values(), default=-1) + 1

    @property
    def tokens(self) -> dict[str, int]:
        """Token, as the files write it, -> id; added tokens too."""
        return self.contents.tokens

    @property
    def merges(self) -> Merges:
        """The pairs of tokens that BPE joins, most important first."""
        return self.contents.merges

    @property
    def special(self) -> SpecialTokens:
        """The special tokens: those declared, else the usual ones."""
        return self.usual if self.declared is None else self.declared

    @property
    def usual(self) -> SpecialTokens:
        """The special tokens of the tokenizer's own files; if they name none, <|endoftext|> of byte-level BPE."""
        if self._is_gpt2_bytes:
            return GPT2_SPECIAL
        end = self.tokens.get(END_OF_TEXT) if self.contents.kind.startswith(BYTE_LEVEL) else None
        return SpecialTokens(ids(end), end) if self.named == SpecialTokens() else self.named

    @cached_property
    def named(self) -> SpecialTokens:
        """The special tokens that tokenizer_config.json or special_tokens_map.json names."""
        found = {}
        for role in ("eos", "bos", "pad"):
            value = self.contents.settings.get(f"{role}_token")
            text = value.get("content") if isinstance(value, dict) else value
            found[role] = self.tokens.get(text) if isinstance(text, str) else None
        return SpecialTokens(ids(found["eos"]), found["bos"], found["pad"])

    @cached_property
    def _is_gpt2_bytes(self) -> bool:
        if isinstance(self.content, GPT2Files):
            return True
        if self.content.keys() - {*HF_NAMES} or not self.content:
            return False
        return are_gpt2_files(*(self.content.get(name, b"") for name in HF_NAMES))

    def __hash__(self) -> int:
        return hash((frozenset(self.content.items()), self.declared))

    def __reduce__(self) -> tuple[type[Vocabulary], tuple[object, ...]]:
        return Vocabulary, (dict(self.content), self.declared, dict(self.paths))


@functools.lru_cache(maxsize=1)
def _gpt2() -> Vocabulary:
    return Vocabulary(GPT2Files())


def _as_text(data: bytes) -> str | dict[str, str]:
    """Return a file as a JSON value: as text, or in base64 if it is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}
