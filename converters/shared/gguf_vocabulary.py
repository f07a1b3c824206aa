"""A byte-level BPE vocabulary among the keys of a GGUF file, as llama.cpp's conversion/base.py writes it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo.containers.gguf.reader import Value
from zoo.errors import CorruptFile
from zoo.formats.vocabulary_notes import describe
from zoo.text.gpt2 import END_OF_TEXT
from zoo.text.parsing import parse_json
from zoo.text.special_tokens import SpecialTokens, first, ids
from zoo.text.vocabulary import Vocabulary

_PREFIX = "tokenizer.ggml."
# How text is split into words: GPT-2's way. Files older than this key, and those that say "default", are GPT-2's too.
_PRE = "gpt-2"
_KNOWN_PRE = (_PRE, "default", "")
_ALL_EOS = "zoo.eos_token_ids"  # llama.cpp has one key for an eos, and one for the end of a turn
# enum llama_token_type of llama.cpp's include/llama.h
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_LOOKS_SPECIAL = re.compile(r"<.+>|\[[A-Z_]+\]")
"""How special tokens are spelled, for llama.cpp does not print them; one that no merge makes is special."""


def write_vocabulary(vocabulary: Vocabulary, rows: int) -> dict[str, Value]:
    """Return the keys that describe the tokenizer; llama.cpp wants as many tokens as the embedding has rows.

    A vocabulary of another kind than GPT-2's is left out, and so are tokens without a row.
    """
    keys = _write_special(vocabulary.special)
    if not vocabulary.is_plain:
        return {f"{_PREFIX}model": "none", **keys}
    texts, kinds = [""] * rows, [_UNUSED] * rows
    for text, i in vocabulary.tokens.items():
        if i < rows:
            texts[i], kinds[i] = text, _NORMAL
    for text in _special_tokens(vocabulary):
        if (i := vocabulary.tokens[text]) < rows:
            kinds[i] = _CONTROL
    for i in np.flatnonzero(np.equal(kinds, _UNUSED)).tolist():
        texts[i] = _pad(i)
    if vocabulary.usual.eos and not vocabulary.special.eos:
        keys[_ALL_EOS] = "[]"  # without the key, the vocabulary's own would count
    if (end := vocabulary.tokens.get(END_OF_TEXT, rows)) < rows:
        keys[f"{_PREFIX}unknown_token_id"] = end
    return {
        f"{_PREFIX}model": "gpt2",
        f"{_PREFIX}pre": _PRE,
        f"{_PREFIX}tokens": texts,
        f"{_PREFIX}token_type": np.array(kinds, np.int32),
        f"{_PREFIX}merges": [f"{left} {right}" for left, right in vocabulary.merges],
        **keys,
    }


def _special_tokens(vocabulary: Vocabulary) -> set[str]:
    """Return the added tokens, and those that look special and are made by no merge."""
    alike = {text for text in vocabulary.tokens if text[:1] in "<[" and _LOOKS_SPECIAL.fullmatch(text)}
    made = {left + right for left, right in vocabulary.merges} if alike - {END_OF_TEXT} else set()
    return (alike - made) | (vocabulary.contents.added.keys() & vocabulary.tokens.keys())


def unheld(vocabulary: Vocabulary) -> list[str]:
    """Return notes on the parts of a vocabulary that a GGUF file leaves out."""
    if not vocabulary.content or vocabulary.is_plain:
        return []
    return [f"a GGUF file by zoo cannot hold this vocabulary ({describe(vocabulary)}): llama.cpp has no text for it"]


def read_vocabulary(metadata: Mapping[str, Value], path: Path) -> tuple[Vocabulary, int | None, list[str]]:
    """Return the vocabulary, how many tokens there are without padding, and what cannot be kept.

    Raises:
        CorruptFile: the keys are of the wrong type or contradict each other.
    """
    model, pre = (metadata.get(_PREFIX + key, default) for key, default in (("model", "none"), ("pre", "")))
    if not isinstance(model, str) or not isinstance(pre, str):
        raise CorruptFile(path, "does not name the kind of its tokenizer as text; write the file again")
    special = _read_special(metadata, SpecialTokens())
    if model == "none":
        return Vocabulary(declared=special), None, []
    texts = _strings(metadata, "tokens", path)
    padding = {i for i, text in enumerate(texts) if text.startswith("[PAD") and text == _pad(i)}
    tokens = {text: i for i, text in enumerate(texts) if i not in padding}
    n_tokens = max(tokens.values(), default=-1) + 1
    if len(tokens) + len(padding) != len(texts):
        twice = next(text for i, text in enumerate(texts) if tokens.get(text, i) != i)
        note = f"its vocabulary has the token {twice[:100]!r} twice, so text cannot be used; it is left out"
        return Vocabulary(declared=special), n_tokens, [note]
    if model != "gpt2" or pre not in _KNOWN_PRE:
        note = f"its tokenizer ({model}, {pre}) is not of GPT-2's kind and is left out"
        return Vocabulary(declared=special), n_tokens, [note]
    kinds = metadata.get(f"{_PREFIX}token_type", np.full(len(texts), _NORMAL))
    if not isinstance(kinds, np.ndarray) or len(kinds) != len(texts):
        raise CorruptFile(path, "does not have one token_type for each token")
    is_added = np.isin(kinds, (_CONTROL, _USER_DEFINED)).tolist()
    added = {text: i for text, i in tokens.items() if is_added[i] and text != END_OF_TEXT}
    found = _vocabulary(tokens, _strings(metadata, "merges", path), added, path)
    special = _read_special(metadata, found.usual)
    return found if special == found.usual else replace(found, declared=special), n_tokens, []


def _write_special(special: SpecialTokens) -> dict[str, Value]:
    found: dict[str, Any] = {"bos": special.bos, "padding": special.pad}
    found |= dict(zip(("eos", "eot"), special.eos, strict=False))
    keys: dict[str, Value] = {f"{_PREFIX}{role}_token_id": i for role, i in found.items() if i is not None}
    return keys | {_ALL_EOS: json.dumps(special.eos)} if len(special.eos) > 1 else keys


def _read_special(metadata: Mapping[str, Value], usual: SpecialTokens) -> SpecialTokens:
    """Return the special tokens of the keys; where there is no key, the usual ones of the vocabulary."""
    eos, eot, bos, pad = (metadata.get(f"{_PREFIX}{role}_token_id") for role in ("eos", "eot", "bos", "padding"))
    if _ALL_EOS in metadata:
        ends = ids(parse_json(str(metadata[_ALL_EOS]).encode(), Path(_ALL_EOS)))
        return SpecialTokens(ends, first(bos), first(pad))
    ends = tuple(dict.fromkeys(ids([eos, eot]))) or usual.eos
    return SpecialTokens(ends, usual.bos if bos is None and eos is None else first(bos), first(pad))


def _vocabulary(tokens: dict[str, int], merges: list[str], added: dict[str, int], path: Path) -> Vocabulary:
    """Return the files that say this; GPT-2's own where they mean the same."""
    gpt2 = Vocabulary.gpt2()
    if tokens == gpt2.tokens and merges == [f"{left} {right}" for left, right in gpt2.merges]:
        return gpt2
    plain = {text: i for text, i in tokens.items() if text not in added}
    lines = "".join(f"{line}\n" for line in ["#version: 0.2", *merges]).encode("utf-8", "replace")
    found = Vocabulary.byte_level(json.dumps(plain).encode(), lines, json.dumps(added).encode() if added else b"")
    return replace(found, paths=dict.fromkeys(found.content, path))


def _strings(metadata: Mapping[str, Value], key: str, path: Path) -> list[str]:
    found = metadata.get(_PREFIX + key)
    if not isinstance(found, list):
        raise CorruptFile(path, f"has a tokenizer without {key}")
    return found


def _pad(i: int) -> str:
    """Return the token of a row that is only padding."""
    return f"[PAD{i}]"
