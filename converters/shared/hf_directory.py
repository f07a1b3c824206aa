"""What Hugging Face's directories have in common, whichever library saved the weights: config.json and tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.containers.files import read_json, write_json
from zoo.converters.shared.hf_config import TOKENS
from zoo.core.paths import is_there
from zoo.errors import FormatError
from zoo.formats.base import Checkpoint
from zoo.formats.config_map import ConfigMap
from zoo.models.gpt2.config import GPTConfig
from zoo.text.vocabulary import END_OF_TEXT, HF_NAMES, Vocabulary

_SPECIAL_IDS = ("bos_token_id", "eos_token_id")


def has_weights(path: Path, names: tuple[str, ...]) -> bool:
    """Whether a path is weights of one of these names beside a config.json, or a directory with both."""
    directory = path.parent if path.is_file() else path
    found = path.name in names if path.is_file() else any((path / name).is_file() for name in names)
    return found and (directory / "config.json").is_file()


def read_config(
    directory: Path, config_map: ConfigMap, vocabulary: Vocabulary | None
) -> tuple[GPTConfig, list[str], Path]:
    """Read config.json: the config, notes on what zoo cannot keep, and the file.

    Its vocab_size counts rows. Where zoo has not noted how many of them are tokens, the vocabulary knows.

    Raises:
        FormatError: there is none, or it is not that of a GPT-2.
    """
    file = directory / "config.json"
    theirs = read_json(file)
    rows = theirs.get("vocab_size")
    tokens = min(rows, vocabulary.n_tokens) if vocabulary and isinstance(rows, int) else rows
    theirs.setdefault(TOKENS, tokens)
    return *config_map.read(theirs, file), file


def read_vocabulary(directory: Path) -> Vocabulary | None:
    """Read vocab.json and merges.txt or, as transformers 5 saves it, tokenizer.json; None where neither is BPE.

    Raises:
        FormatError: one of the files is damaged.
    """
    file = directory / "tokenizer.json"
    found = Vocabulary.read(directory)
    if found or not is_there(file):
        return found
    theirs = read_json(file)
    model, splitting = theirs.get("model"), theirs.get("pre_tokenizer")
    if not isinstance(model, dict) or not isinstance(splitting, dict) or splitting.get("type") != "ByteLevel":
        return None
    try:
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        added = {token["content"]: token["id"] for token in theirs.get("added_tokens", [])}
        extra = {name: i for name, i in added.items() if name not in model["vocab"]}
        fields = {
            "encoder.json": json.dumps(model["vocab"]),
            "vocab.bpe": "\n".join(["#version: 0.2", *merges, ""]),
            "added_tokens.json": json.dumps(extra) if extra else "",
        }
    except (KeyError, TypeError) as error:
        raise FormatError(file, f"is not a tokenizer of transformers ({error!r}); copy it again") from error
    return Vocabulary.from_json(json.dumps(fields), file)


def write_config(path: Path, checkpoint: Checkpoint, config_map: ConfigMap) -> None:
    """Write config.json, and the tokenizer's files if there is a vocabulary, into an existing directory."""
    config = checkpoint.config
    theirs = config_map.write(config)
    if config.vocab_size == config.vocab_rows:
        del theirs[TOKENS]
    dtypes = sorted({str(tensor.dtype) for tensor in checkpoint.tensors.values()})
    theirs |= {"architectures": ["GPT2LMHeadModel"], "dtype": dtypes[0] if len(dtypes) == 1 else "float32"}
    # Without a vocabulary nobody knows these ids; left out, transformers would take GPT-2's.
    theirs |= dict.fromkeys(_SPECIAL_IDS)
    write_json(path / "config.json", theirs | _write_tokenizer(path, checkpoint))


def _write_tokenizer(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """Write the tokenizer's files, and return what config.json says of it."""
    if not checkpoint.vocabulary:
        return {}
    for name, content in checkpoint.vocabulary.files(HF_NAMES).items():
        (path / name).write_bytes(content)
    end = checkpoint.vocabulary.tokens.get(END_OF_TEXT)
    special = {} if end is None else dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    length = checkpoint.config.context_length
    write_json(
        path / "tokenizer_config.json",
        {"tokenizer_class": "GPT2Tokenizer", "model_max_length": length, **special},
    )
    ids = dict.fromkeys(_SPECIAL_IDS, end)
    write_json(path / "generation_config.json", ids)
    return ids
