"""The vocabulary of nanoGPT's character models: meta.pkl, which data/shakespeare_char/prepare.py writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.containers.torch.pickle_reader import read_pickle
from zoo.errors import FormatError
from zoo.text.vocabulary import Vocabulary

META = "meta.pkl"


def read_characters(file: Path) -> Vocabulary:
    """Return the characters of a meta.pkl, as a tokenizer.json that transformers reads too.

    Raises:
        FormatError: it is not one, or names a class or function that zoo does not know.
    """
    with file.open("rb") as opened:
        tree, _ = read_pickle(opened, file)
    stoi = tree.get("stoi") if isinstance(tree, dict) else None
    if not isinstance(stoi, dict) or not stoi:
        raise FormatError(file, "has no stoi, as nanoGPT's prepare.py writes it; remove it, and give token ids")
    if not all(isinstance(char, str) and len(char) == 1 for char in stoi):
        raise FormatError(file, "maps more than single characters to ids; remove it, and give token ids")
    if sorted(map(str, stoi.values())) != sorted(map(str, range(len(stoi)))):
        raise FormatError(file, f"does not give its {len(stoi)} characters the ids from 0 on; remove it")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    content = {"tokenizer.json": _tokenizer(stoi), "tokenizer_config.json": json.dumps(settings).encode()}
    return Vocabulary(content, paths=dict.fromkeys(content, file))


def _tokenizer(ids: dict[str, int]) -> bytes:
    """Return a tokenizer.json that splits text into characters; one without an id is refused, as by nanoGPT."""
    by_id = dict(sorted(ids.items(), key=lambda item: item[1]))
    each = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    found: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": each,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": by_id, "unk_token": ""},
    }
    return json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogatepass")
