"""The files that all of Hugging Face's directories have: config.json and the tokenizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from zoo.containers.files import read_json, write_json
from zoo.converters.shared.hf_config import TOKENS
from zoo.core.paths import is_there
from zoo.formats.base import Checkpoint
from zoo.formats.config_map import ConfigMap
from zoo.models.gpt2.config import GPTConfig
from zoo.text.gpt2 import END_OF_TEXT
from zoo.text.special_tokens import SpecialTokens, first, ids
from zoo.text.vocabulary import Vocabulary


def has_weights(path: Path, names: tuple[str, ...]) -> bool:
    """Return whether a path is weights of one of these names beside a config.json, or a directory with both."""
    directory = path.parent if path.is_file() else path
    found = path.name in names if path.is_file() else any((path / name).is_file() for name in names)
    return found and (directory / "config.json").is_file()


def read_config(directory: Path, config_map: ConfigMap, vocabulary: Vocabulary) -> tuple[GPTConfig, list[str], Path]:
    """Read config.json: the config, notes on what zoo cannot keep, and the file.

    Its vocab_size counts rows. If zoo has not recorded how many of them are tokens, the vocabulary determines it.

    Raises:
        FormatError: there is none, or it is not that of a GPT-2.
    """
    file = directory / "config.json"
    theirs = read_json(file)
    rows = theirs.get("vocab_size")
    theirs.setdefault(TOKENS, _count_tokens(rows, vocabulary) if isinstance(rows, int) else rows)
    return *config_map.read(theirs, file), file


def _count_tokens(rows: int, vocabulary: Vocabulary) -> int:
    """Return how many of the embedding's rows are tokens, as far as the vocabulary determines it."""
    return min(rows, vocabulary.n_tokens or rows)


def read_vocabulary(directory: Path) -> Vocabulary:
    """Read the tokenizer's files and the special tokens, damaged or not.

    Of special tokens, those of generation_config.json come first, then those of config.json, then the tokenizer's own:
    transformers does so when it generates.

    Raises:
        FormatError: config.json or generation_config.json is not JSON.
    """
    vocabulary = Vocabulary.read(directory)
    files = (directory / "generation_config.json", directory / "config.json")
    sources = [read_json(file) for file in files if is_there(file)]

    def find(role: str, named: tuple[int, ...]) -> tuple[int, ...]:
        declared = (ids(source.get(f"{role}_token_id")) for source in sources)
        return next((found for found in declared if found), named)

    named = vocabulary.named
    bos, pad = find("bos", ids(named.bos)), find("pad", ids(named.pad))
    found = SpecialTokens(find("eos", named.eos), first(bos), first(pad))
    return vocabulary if found in (SpecialTokens(), vocabulary.usual) else replace(vocabulary, declared=found)


def write_config(path: Path, checkpoint: Checkpoint, config_map: ConfigMap) -> None:
    """Write config.json, and the tokenizer's files if there is a vocabulary, into an existing directory."""
    theirs = config_map.write(checkpoint.config)
    if min(checkpoint.config.vocab_rows, checkpoint.vocabulary.n_tokens) == checkpoint.config.vocab_size:
        del theirs[TOKENS]  # a vocabulary says it; where there is none, a smaller one may be added later
    dtypes = sorted({str(tensor.dtype) for tensor in checkpoint.tensors.values()})
    theirs |= {"architectures": ["GPT2LMHeadModel"], "dtype": dtypes[0] if len(dtypes) == 1 else "float32"}
    special = checkpoint.vocabulary.special
    eos = special.eos[0] if len(special.eos) == 1 else list(special.eos) or None
    # Left out, transformers would take GPT-2's.
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
