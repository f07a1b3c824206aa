"""zoo's own format: one safetensors file whose metadata holds config, vocabulary and provenance.

Tensors lie in the order and orientation of the model, so that loading maps the file and copies nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from zoo.containers.files import parse_json
from zoo.containers.quantized import KINDS
from zoo.containers.safetensors import (
    is_safetensors,
    read_metadata,
    read_provenance,
    read_safetensors,
    write_safetensors,
)
from zoo.converters.shared.quantized_matrices import ENCODING, packed, quantised, unpacked
from zoo.core.tensors import Array, LazyTensor, Tensors
from zoo.errors import ConfigError, CorruptFile, FormatError, ZooError
from zoo.formats.base import Checkpoint, Format, Known, WriteOptions
from zoo.formats.config_map import ConfigMap
from zoo.formats.rules import Rule, Table
from zoo.formats.vocabulary_notes import assume_vocabulary
from zoo.models.gpt2.config import GPTConfig
from zoo.text.vocabulary import Vocabulary

_ROWS = "tok_emb.rows"  # (U,) int32: the ids that rows of tok_emb.weight belong to, where not all are stored
_MAX_SPREAD = 3  # rows made for each that is stored
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
    summary = (
        "zoo's own: one safetensors file with config, vocabulary and provenance; memory-mapped, quantised on request"
    )
    table = Table(tuple(Rule(name, name) for name in _NAMES))
    config_map = ConfigMap(fields=())
    suffixes = (".safetensors",)
    dtypes = ("float32", "float16", "bfloat16", "float64")
    encodings = KINDS
    pads = True

    def sniff(self, path: Path) -> bool:
        """Return whether it is a safetensors file with zoo's metadata."""
        if not is_safetensors(path):
            return False
        try:
            return read_metadata(path).get("format") == "zoo"
        except ZooError:
            return False

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open the file with its own config."""
        tensors, metadata = read_safetensors(path)
        if "zoo.config" not in metadata:
            raise FormatError(path, "is a safetensors file, but not of zoo: its metadata has no zoo.config")
        try:
            found = GPTConfig.from_dict(parse_json(metadata["zoo.config"].encode(), path, "its zoo.config"))
        except ConfigError as error:
            raise FormatError(path, f"its config is impossible: {error}") from error
        if _ROWS in tensors:
            tensors["tok_emb.weight"] = _spread(path, found, tensors.pop(_ROWS), tensors.get("tok_emb.weight"))
        notes = []
        if kind := metadata.get(ENCODING):
            tensors = unpacked(tensors, kind, found, path)
            notes.append(f"its matrices are {kind}: the engine runs them so, everything else reads them as float32")
        own = metadata.get("zoo.vocabulary")
        vocabulary, guess = (Vocabulary.from_json(own, path), []) if own else assume_vocabulary(found)
        return Checkpoint(
            path,
            found,
            tensors,
            vocabulary=vocabulary,
            files=(path,),
            provenance=read_provenance(path, metadata),
            notes=(*notes, *guess),
        )

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write the file; of GPT-2's own vocabulary only the name is stored."""
        self._write(path, checkpoint, checkpoint.tensors, options)

    def stored(self, name: str, tensor: LazyTensor, encoding: str) -> LazyTensor:
        """Return the quantised tensor as it is read back: matrices in float32, others unchanged."""
        return quantised(name, tensor, encoding)

    def nbytes(self, name: str, tensor: LazyTensor, encoding: str) -> int:
        """Return the bytes of a tensor in the file, scales included."""
        return quantised(name, tensor, encoding).stored_nbytes if encoding else tensor.nbytes

    def write_compact(self, path: Path, checkpoint: Checkpoint) -> None:
        """Write the file without the rows of the embedding that are zero, which reading puts back.

        Such a file is smaller, but its embedding is not mapped: it is rebuilt when it is loaded.
        """
        table = checkpoint.tensors["tok_emb.weight"].load()
        rows = np.flatnonzero(np.any(table != 0, axis=1)).astype(np.int32)
        tensors = {**checkpoint.tensors, "tok_emb.weight": LazyTensor.of(table[rows]), _ROWS: LazyTensor.of(rows)}
        self._write(path, checkpoint, tensors, WriteOptions())

    def _write(self, path: Path, checkpoint: Checkpoint, tensors: Tensors, options: WriteOptions) -> None:
        metadata = {
            "format": "zoo",
            "zoo.config": json.dumps(checkpoint.config.to_dict()),
            "zoo.vocabulary": checkpoint.vocabulary.to_json(),
        }
        if options.encoding:
            metadata[ENCODING] = options.encoding
            tensors = packed(tensors, options.encoding)
        write_safetensors(path, tensors, metadata, options.provenance, options.on_bytes)


def _spread(path: Path, config: GPTConfig, places: LazyTensor, rows: LazyTensor | None) -> LazyTensor:
    """The embedding, from those of its rows that are not zero and the ids that they belong to."""
    if rows is None or len(rows.shape) != 2 or places.shape != rows.shape[:1] or places.dtype != np.int32:
        raise CorruptFile(path, f"{_ROWS} and tok_emb.weight do not belong together; copy the file again")
    shape = (config.vocab_rows, rows.shape[1])
    # A few bytes must not ask for any memory.
    if not 0 < shape[0] <= _MAX_SPREAD * len(places.load()):
        raise CorruptFile(path, f"has {rows.shape[0]:,} of {shape[0]:,} rows of tok_emb.weight, too few to be true")

    def load() -> Array:
        ids = places.load()
        if ids.min() < 0 or ids.max() >= shape[0]:
            raise CorruptFile(path, f"{_ROWS} has an id that is outside the vocabulary of {shape[0]:,}")
        table = np.zeros(shape, rows.dtype)
        table[ids] = rows.load()
        return table

    return LazyTensor(shape, rows.dtype, load)
