"""zoo's own format: one safetensors file whose metadata holds config, vocabulary and provenance.

Tensors lie in the order and orientation of the model, so that loading maps the file and copies nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

from zoo.config import GPTConfig
from zoo.config_map import ConfigMap
from zoo.converters._files import parse_json
from zoo.converters._safetensors import (
    is_safetensors,
    read_metadata,
    read_provenance,
    read_safetensors,
    write_safetensors,
)
from zoo.errors import ConfigError, FormatError, ZooError
from zoo.format import Checkpoint, Format, WriteOptions
from zoo.mapping import Rule, Table
from zoo.vocabulary import Vocabulary

_PARAMETERS = ("tok_emb.weight", "pos_emb.weight")
_BLOCK = ("norm1", "attn.qkv", "attn.out", "norm2", "mlp.up", "mlp.down")
_NAMES = (
    *_PARAMETERS,
    *(f"blocks.{{i}}.{layer}.{kind}" for layer in _BLOCK for kind in ("weight", "bias")),
    "final_norm.weight",
    "final_norm.bias",
    "head.weight",
)


class ZooFile(Format):
    """zoo's own file."""

    name = "zoo"
    summary = "zoo's own: one safetensors file with config, vocabulary and provenance; memory-mapped on loading"
    table = Table(tuple(Rule(name, name) for name in _NAMES))
    config_map = ConfigMap(fields=())
    suffixes = (".safetensors",)
    dtypes = ("float32", "float16", "bfloat16", "float64")

    def sniff(self, path: Path) -> bool:
        """Whether it is a safetensors file with zoo's metadata."""
        if not is_safetensors(path):
            return False
        try:
            return read_metadata(path).get("format") == "zoo"
        except ZooError:
            return False

    def read(self, path: Path, config: GPTConfig | None = None) -> Checkpoint:
        """Open the file; its own config counts."""
        tensors, metadata = read_safetensors(path)
        if "zoo.config" not in metadata:
            raise FormatError(path, "is a safetensors file, but not of zoo: its metadata has no zoo.config")
        try:
            found = GPTConfig.from_dict(parse_json(metadata["zoo.config"].encode(), path, "its zoo.config"))
        except ConfigError as error:
            raise FormatError(path, f"its config is impossible: {error}") from error
        own = metadata.get("zoo.vocabulary")
        return Checkpoint(
            path,
            found,
            tensors,
            vocabulary=Vocabulary.from_json(own, path) if own else None,
            files=(path,),
            provenance=read_provenance(path, metadata),
        )

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write the file; of GPT-2's own vocabulary only the name is stored."""
        metadata = {
            "format": "zoo",
            "zoo.config": json.dumps(checkpoint.config.to_dict()),
        }
        if checkpoint.vocabulary:
            metadata["zoo.vocabulary"] = checkpoint.vocabulary.to_json()
        write_safetensors(path, checkpoint.tensors, metadata, checkpoint.provenance, options.on_bytes)
