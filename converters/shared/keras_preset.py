"""The JSON and text files of a Keras Hub preset of GPT-2: objects as Keras serialises them, and the tokenizer's assets.

keras_hub/src/utils/preset_utils.py (KerasPresetSaver, KerasPresetLoader), keras/src/saving/serialization_lib.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.containers.files import read_json, write_json
from zoo.errors import FormatError
from zoo.formats.base import Checkpoint
from zoo.formats.vocabulary_notes import unheld_vocabulary
from zoo.text.gpt2 import END_OF_TEXT
from zoo.text.vocabulary import KERAS_NAMES, Vocabulary

BACKBONE = "GPT2Backbone"
ASSETS = "assets/tokenizer"

# Class -> module in keras_hub/src/models/gpt2, and the name of an object of it.
_MODULES = {
    BACKBONE: "gpt2_backbone",
    "GPT2CausalLM": "gpt2_causal_lm",
    "GPT2CausalLMPreprocessor": "gpt2_causal_lm_preprocessor",
    "GPT2Tokenizer": "gpt2_tokenizer",
}


def read_config(file: Path) -> dict[str, Any]:
    """Read the config of the backbone.

    Raises:
        FormatError: the file is not that of a GPT2Backbone.
    """
    content = read_json(file)
    config = content.get("config")
    if content.get("class_name") != BACKBONE or not isinstance(config, dict):
        raise FormatError(file, f"is the config of a {content.get('class_name')!r}, not of Keras Hub's {BACKBONE}")
    return config


def write_preset(path: Path, checkpoint: Checkpoint, config: dict[str, Any]) -> None:
    """Write everything but the weights and metadata.json into an existing directory.

    Args:
        path: the directory.
        checkpoint: whose vocabulary, context and dtype count.
        config: the backbone's.
    """
    dtypes = {str(tensor.dtype) for tensor in checkpoint.tensors.values()}
    backbone = _layer(BACKBONE, dtypes.pop() if len(dtypes) == 1 else "float32", config)
    tokenizer = _write_tokenizer(path, checkpoint.vocabulary) if checkpoint.vocabulary.is_plain else None
    preprocessor = None
    if tokenizer:
        length = {"sequence_length": checkpoint.config.context_length, "add_start_token": True, "add_end_token": True}
        wrapped = {"tokenizer": tokenizer, "config_file": "preprocessor.json", **length}
        preprocessor = _layer("GPT2CausalLMPreprocessor", "float32", wrapped)
        write_json(path / "tokenizer.json", tokenizer)
        write_json(path / "preprocessor.json", preprocessor)
    task = {"backbone": backbone, "preprocessor": preprocessor, "name": _MODULES["GPT2CausalLM"]}
    write_json(path / "config.json", backbone)
    write_json(path / "task.json", _object("GPT2CausalLM", task))


def unheld(vocabulary: Vocabulary) -> list[str]:
    """Return notes on the parts of a vocabulary that have no place, and on why a tokenizer is left out."""
    notes = unheld_vocabulary(vocabulary, "Keras Hub")
    if vocabulary.is_plain and END_OF_TEXT not in vocabulary.tokens:
        notes.append(
            f"Keras Hub finds no tokenizer: its GPT2Tokenizer needs the token {END_OF_TEXT}, which is not there"
        )
    return notes


def _write_tokenizer(path: Path, vocabulary: Vocabulary) -> dict[str, Any] | None:
    """Write the assets, and return the tokenizer's object, None if Keras Hub's class does not support it."""
    files, added = vocabulary.pair(KERAS_NAMES), vocabulary.contents.added
    if added.keys() - {END_OF_TEXT}:  # which Keras Hub knows only as words of the vocabulary that are never split
        files[KERAS_NAMES[0]] = json.dumps(vocabulary.tokens).encode()
    (path / ASSETS).mkdir(parents=True)
    for name, content in files.items():
        (path / ASSETS / name).write_bytes(content)
    if END_OF_TEXT not in vocabulary.tokens:
        return None
    whole = list(dict.fromkeys([END_OF_TEXT, *added]))
    splitting = {"sequence_length": None, "add_prefix_space": False, "unsplittable_tokens": whole}
    return _layer("GPT2Tokenizer", "int32", {"config_file": "tokenizer.json", **splitting})


def _layer(class_name: str, dtype: str, config: dict[str, Any]) -> dict[str, Any]:
    """An object of a layer, which has a name and a dtype beside its own settings."""
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": dtype}, "registered_name": None}
    return _object(class_name, {"name": _MODULES[class_name], "trainable": True, "dtype": policy, **config})


def _object(class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "module": f"keras_hub.src.models.gpt2.{_MODULES[class_name]}",
        "class_name": class_name,
        "config": config,
        "registered_name": f"keras_hub>{class_name}",
    }
