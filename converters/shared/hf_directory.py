"""What Hugging Face's directories have in common, whichever library saved the weights: config.json and tokenizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.containers.files import read_json, write_json
from zoo.core.paths import is_there
from zoo.formats.base import Checkpoint
from zoo.formats.config_map import ConfigMap
from zoo.models.gpt2.config import GPTConfig
from zoo.text.gpt2 import END_OF_TEXT
from zoo.text.special_tokens import SpecialTokens, first, ids
from zoo.text.vocabulary import Vocabulary

TOKENS = "number of tokens"  # which config.json does not say, put beside its keys as they are read


def has_weights(path: Path, names: tuple[str, ...]) -> bool:
    """Whether a path is weights of one of these names beside a config.json, or a directory with both."""
    directory = path.parent if path.is_file() else path
    found = path.name in names if path.is_file() else any((path / name).is_file() for name in names)
    return found and (directory / "config.json").is_file()


def read_config(directory: Path, config_map: ConfigMap) -> tuple[GPTConfig, Vocabulary, list[str], Path]:
    """Read config.json and the tokenizer's files: the config, the vocabulary, notes, and the file.

    Its vocab_size counts rows. How many of them are tokens is what the vocabulary says.

    Raises:
        FormatError: there is none, or it is not that of a GPT-2.
    """
    file = directory / "config.json"
    theirs = read_json(file)
    vocabulary = Vocabulary.read(directory)
    rows, n_tokens = theirs.get("vocab_size"), vocabulary.n_tokens
    theirs[TOKENS] = min(rows, n_tokens) if n_tokens and isinstance(rows, int) else rows
    config, notes = config_map.read(theirs, file)
    return config, _with_special(vocabulary, directory, theirs), notes, file


def _with_special(vocabulary: Vocabulary, directory: Path, theirs: dict[str, Any]) -> Vocabulary:
    """Add the special tokens: those of generation_config.json, else of config.json, else of the tokenizer."""
    file = directory / "generation_config.json"
    sources = [read_json(file) if is_there(file) else {}, theirs]

    def find(role: str, named: tuple[int, ...]) -> tuple[int, ...]:
        declared = (ids(source.get(f"{role}_token_id")) for source in sources)
        return next((found for found in declared if found), named)

    named = vocabulary.named
    bos, pad = find("bos", ids(named.bos)), find("pad", ids(named.pad))
    found = SpecialTokens(find("eos", named.eos), first(bos), first(pad))
    return vocabulary if found == named else replace(vocabulary, declared=found)


def write_config(path: Path, checkpoint: Checkpoint, config_map: ConfigMap) -> None:
    """Write config.json, and the tokenizer's files if there is a vocabulary, into an existing directory."""
    theirs = config_map.write(checkpoint.config)
    theirs.pop(TOKENS, None)
    dtypes = sorted({str(tensor.dtype) for tensor in checkpoint.tensors.values()})
    theirs |= {"architectures": ["GPT2LMHeadModel"], "dtype": dtypes[0] if len(dtypes) == 1 else "float32"}
    special = checkpoint.vocabulary.special
    eos = special.eos[0] if len(special.eos) == 1 else list(special.eos) or None
    # Left out, bos and eos would be taken for GPT-2's.
    roles = {"bos_token_id": special.bos, "eos_token_id": eos}
    roles |= {} if special.pad is None else {"pad_token_id": special.pad}
    if special != SpecialTokens():
        write_json(path / "generation_config.json", roles)
    write_json(path / "config.json", theirs | roles)
    _write_tokenizer(path, checkpoint)


def _write_tokenizer(path: Path, checkpoint: Checkpoint) -> None:
    """Write the tokenizer's files as they are; tokenizer_config.json, where the source has none, says what they are."""
    vocabulary = checkpoint.vocabulary
    for name, content in vocabulary.content.items():
        (path / name).write_bytes(content)
    if vocabulary.content.keys() & {"tokenizer_config.json", "tokenizer.json"} or not vocabulary.is_plain:
        return
    text_of = {i: text for text, i in vocabulary.tokens.items()}
    special = vocabulary.special
    # Left out, they would be taken for <|endoftext|>, and added to a vocabulary that has not got it.
    roles = {"bos_token": special.bos, "eos_token": next(iter(special.eos), None), "pad_token": special.pad}
    named = {role: None if i is None else text_of.get(i) for role, i in roles.items()}
    unknown = END_OF_TEXT if END_OF_TEXT in vocabulary.tokens else None
    length = {"model_max_length": checkpoint.config.context_length}
    tokenizer_config = {"tokenizer_class": "GPT2Tokenizer", **length, **named, "unk_token": unknown}
    write_json(path / "tokenizer_config.json", tokenizer_config)
