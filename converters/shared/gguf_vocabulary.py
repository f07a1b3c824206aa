"""A byte-level BPE vocabulary among the keys of a GGUF file, as llama.cpp's conversion/base.py writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from zoo.containers.gguf.reader import Value
from zoo.errors import CannotHold, CorruptFile
from zoo.text.tokenizer import LOOKS_SPECIAL
from zoo.text.vocabulary import END_OF_TEXT, Vocabulary

_PREFIX = "tokenizer.ggml."
# How text is split into words: GPT-2's way. Files older than this key, and those that say "default", are GPT-2's too.
_PRE = "gpt-2"
_KNOWN_PRE = (_PRE, "default", "")
# enum llama_token_type of llama.cpp's include/llama.h
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def write_vocabulary(vocabulary: Vocabulary | None, rows: int) -> dict[str, Value]:
    """Return the keys that tell llama.cpp of a tokenizer; it wants as many tokens as the embedding has rows.

    Raises:
        CannotHold: the vocabulary has more tokens than that.
    """
    if vocabulary is None:
        return {f"{_PREFIX}model": "none"}
    if vocabulary.n_tokens > rows:
        raise CannotHold(f"GGUF wants as many tokens as rows; there are {vocabulary.n_tokens:,} and {rows:,}")
    texts, kinds = [_pad(i) for i in range(rows)], np.full(rows, _UNUSED, np.int32)
    made = {left + right for left, right in vocabulary.merges}
    for text, i in vocabulary.tokens.items():
        special = text in vocabulary.added_tokens or text == END_OF_TEXT
        special |= text not in made and LOOKS_SPECIAL.fullmatch(text) is not None
        texts[i], kinds[i] = text, _CONTROL if special else _NORMAL
    keys: dict[str, Value] = {
        f"{_PREFIX}model": "gpt2",
        f"{_PREFIX}pre": _PRE,
        f"{_PREFIX}tokens": texts,
        f"{_PREFIX}token_type": kinds,
        f"{_PREFIX}merges": [f"{left} {right}" for left, right in vocabulary.merges],
    }
    end = vocabulary.tokens.get(END_OF_TEXT)
    if end is not None:
        keys |= {f"{_PREFIX}{role}_token_id": end for role in ("bos", "eos", "unknown")}
    return keys


def read_vocabulary(metadata: Mapping[str, Value], path: Path) -> tuple[Vocabulary | None, int | None, list[str]]:
    """Return the vocabulary, how many tokens there are without padding, and what cannot be kept.

    Raises:
        FormatError: the keys contradict each other.
    """
    model, pre = (metadata.get(_PREFIX + key, default) for key, default in (("model", "none"), ("pre", "")))
    if not isinstance(model, str) or not isinstance(pre, str):
        raise CorruptFile(path, "does not say in text of which kind its tokenizer is")
    if model == "none":
        return None, None, []
    texts = _strings(metadata, "tokens", path)
    ids = {text: i for i, text in enumerate(texts) if text != _pad(i)}
    if len(ids) + sum(text == _pad(i) for i, text in enumerate(texts)) != len(texts):
        raise CorruptFile(path, "has the same token twice in its vocabulary")
    n_tokens = max(ids.values(), default=-1) + 1
    if model != "gpt2" or pre not in _KNOWN_PRE:
        return None, n_tokens, [f"its tokenizer ({model}, {pre}) is not of GPT-2's kind and is left out"]
    kinds = metadata.get(f"{_PREFIX}token_type", np.full(len(texts), _NORMAL))
    if not isinstance(kinds, np.ndarray) or len(kinds) != len(texts):
        raise CorruptFile(path, "does not have one token_type for each token")
    added = {text: i for text, i in ids.items() if kinds[i] in (_CONTROL, _USER_DEFINED) and text != END_OF_TEXT}
    return _vocabulary(ids, _strings(metadata, "merges", path), added, path), n_tokens, []


def _vocabulary(ids: dict[str, int], merges: list[str], added: dict[str, int], path: Path) -> Vocabulary:
    """Return the files that say this; GPT-2's own where they mean the same."""
    gpt2 = Vocabulary.gpt2()
    if ids == gpt2.tokens and merges == [f"{left} {right}" for left, right in gpt2.merges]:
        return gpt2
    plain = {text: i for text, i in ids.items() if text not in added}
    encoder, added_tokens = json.dumps(plain).encode(), json.dumps(added).encode() if added else b""
    bpe = "".join(f"{line}\n" for line in ["#version: 0.2", *merges]).encode("utf-8", "replace")
    found = Vocabulary(encoder, bpe, added_tokens, (path, path, path))
    _ = found.tokens, found.merges  # parses them: what is damaged is reported now
    return found


def _strings(metadata: Mapping[str, Value], key: str, path: Path) -> list[str]:
    found = metadata.get(_PREFIX + key)
    if not isinstance(found, list):
        raise CorruptFile(path, f"has a tokenizer without {key}")
    return found


def _pad(i: int) -> str:
    """The token of a row that is only padding."""
    return f"[PAD{i}]"
