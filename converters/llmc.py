"""llm.c: one file with a header of 256 numbers, then all weights without names.

https://github.com/karpathy/llm.c (train_gpt2.py: write_model, write_tensors and pad_vocab; train_gpt2.c:
gpt2_build_from_checkpoint). Weights lie kind by kind, each kind for all layers, matrices (out, in). Versions 3
(float32) and 5 (bfloat16) pad the embedding with rows of zeros to a multiple of 128; the older 1 and 2 do not pad and
are only read. (In April 2024 version 2 had its layer norms at the end, in float32, says llm.c's pull request 265. Such
a file is longer than its header asks for here, so it is refused.)

llm.c reads eight numbers of the header, which say how many rows are tokens and how many there are with padding. zoo
stores its own config in the rest of it, so that a converted model keeps its number of rows. The padding can never win:
train_gpt2.c samples from the first vocab_size logits only.
"""

from __future__ import annotations

import json
import math
import os
from functools import partial
from mmap import mmap
from pathlib import Path

import numpy as np

from zoo.containers.files import map_file, parse_json
from zoo.core.stream import write_at
from zoo.core.tensors import DTYPES, Array, LazyTensor
from zoo.errors import CannotHold, ConfigError, CorruptFile, FormatError
from zoo.formats.base import Checkpoint, Format, Known, WriteOptions
from zoo.formats.config_map import ConfigMap, Field
from zoo.formats.rules import Derived, Rule, Table, weight_and_bias
from zoo.formats.vocabulary_notes import assume_vocabulary, describe, unheld_special
from zoo.models.gpt2.config import GPTConfig
from zoo.text.gpt2 import GPT2_N_TOKENS

MAGIC = 20240326
_HEADER_BYTES = 1024
_OWN = 32  # where zoo's record begins, after the eight numbers
_OWN_MARK = b"zoo.config "
_ROWS = 128  # train_gpt2.py pads the embedding to a multiple of it
_DTYPES = {1: "float32", 2: "bfloat16", 3: "float32", 5: "bfloat16"}  # by version
_UNPADDED = (1, 2)
_PADDING = "wte_padding"

# Of the header, from the third number on; named as in train_gpt2.c's GPT2Config.
_NUMBERS = ("max_seq_len", "vocab_size", "num_layers", "num_heads", "channels", "padded_vocab_size")


def _padding(config: GPTConfig) -> LazyTensor:
    shape = (-config.vocab_rows % _ROWS, config.width)
    return LazyTensor(shape, np.dtype(np.float32), lambda: np.zeros(shape, np.float32))


_pair = partial(weight_and_bias, weight="w.{i}", bias="b.{i}")


class LlmC(Format):
    """A .bin file of llm.c."""

    name = "llm.c"
    summary = "llm.c: one .bin file, float32 or bfloat16, the vocabulary padded to a multiple of 128"
    suffixes = (".bin",)
    dtypes = ("float32", "bfloat16")
    pads = True
    # The order of the rules is the order in the file. The names are those of train_gpt2.c's ParameterTensors.
    table = Table(
        (
            Rule("wte", "tok_emb.weight"),
            Rule("wpe", "pos_emb.weight"),
            *_pair("ln1", "blocks.{i}.norm1"),
            *_pair("qkv", "blocks.{i}.attn.qkv"),
            *_pair("attproj", "blocks.{i}.attn.out"),
            *_pair("ln2", "blocks.{i}.norm2"),
            *_pair("fc", "blocks.{i}.mlp.up"),
            *_pair("fcproj", "blocks.{i}.mlp.down"),
            Rule("lnfw", "final_norm.weight"),
            Rule("lnfb", "final_norm.bias"),
        ),
        derived=(Derived(_PADDING, _padding, written=True),),
    )
    config_map = ConfigMap(
        fields=(
            Field("max_seq_len", "context_length"),
            Field("vocab_size", "vocab_size"),
            Field("num_layers", "n_layers"),
            Field("num_heads", "n_heads"),
            Field("channels", "width"),
            Field("padded_vocab_size", "vocab_rows"),
        ),
        implied={
            "inner_width": 0,
            "qkv_bias": True,
            "bias": True,
            "tied": True,
            "norm_eps": 1e-5,
            "activation": "gelu_tanh",
        },
    )

    def sniff(self, path: Path) -> bool:
        """Return whether it is a file that begins with llm.c's magic number."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(4) == MAGIC.to_bytes(4, "little")

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open the file with the sizes of its header."""
        data = map_file(path)
        found, version, padding = self._read_header(path, data)
        dtype = DTYPES[_DTYPES[version]]
        tensors, offset = {}, _HEADER_BYTES
        for name, shape in self._places(found, padding).items():
            tensors[name] = _view(data, dtype, shape, offset)
            offset += tensors[name].nbytes
        if offset != len(data):
            raise CorruptFile(path, f"has {len(data):,} bytes where its header asks for {offset:,}; copy it again")
        vocabulary, guess = assume_vocabulary(found)
        return Checkpoint(path, found, tensors, vocabulary=vocabulary, files=(path,), notes=tuple(guess))

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write the file, in version 3 or 5; there is no room in it for the provenance."""
        config, tensors = checkpoint.config, dict(checkpoint.tensors)
        padding = tensors.pop(_PADDING, None)
        dtypes = {str(tensor.dtype) for tensor in tensors.values()}
        if len(dtypes) > 1:
            mixed = ", ".join(sorted(dtypes))
            raise CannotHold(f"llm.c has one dtype for all weights, and these are {mixed}; choose one with dtype=NAME")
        dtype = DTYPES[dtypes.pop()]
        if padding:
            tensors[_PADDING] = padding.astype(dtype)
        placed, offset = [], _HEADER_BYTES
        for name in self._places(config, padding.shape[0] if padding else 0):
            placed.append((offset, tensors[name]))
            offset += tensors[name].nbytes
        path.write_bytes(self._header(config, 5 if dtype == DTYPES["bfloat16"] else 3))
        os.truncate(path, offset)
        write_at(path, placed, options.on_bytes)

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """Return notes on added rows and on a program that does not read the dtype."""
        notes = super().notes(checkpoint)
        if any(tensor.dtype == DTYPES["bfloat16"] for tensor in checkpoint.tensors.values()):
            notes.append("llm.c's train_gpt2.c reads float32 only, which --dtype float32 writes")
        rows, added = checkpoint.config.vocab_rows, -checkpoint.config.vocab_rows % _ROWS
        if added:
            notes.append(f"{added} rows of zeros follow the embedding's {rows:,}: llm.c wants a multiple of {_ROWS}")
        return notes

    def unheld(self, checkpoint: Checkpoint) -> list[str]:
        """Return a note on a vocabulary other than GPT-2's, which llm.c assumes."""
        vocabulary = checkpoint.vocabulary
        if not vocabulary.content or vocabulary.is_gpt2:
            return unheld_special(vocabulary, GPT2_N_TOKENS - 1 if vocabulary.content else None, "llm.c")
        return [f"llm.c does not store a vocabulary, and this one ({describe(vocabulary)}) is not GPT-2's"]

    def _places(self, config: GPTConfig, padding: int) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of everything after the header, in order."""
        (wte, shape), *others = self.table.shapes(config).items()
        extra = {_PADDING: (padding, config.width)} if padding else {}
        return {wte: shape, **extra, **dict(others)}

    def _header(self, config: GPTConfig, version: int) -> bytes:
        theirs = self.config_map.write(config)
        theirs["padded_vocab_size"] += -config.vocab_rows % _ROWS
        numbers = np.array([MAGIC, version, *(theirs[name] for name in _NUMBERS)], "<i4")
        return (numbers.tobytes() + _OWN_MARK + json.dumps(config.to_dict()).encode()).ljust(_HEADER_BYTES, b"\0")

    def _read_header(self, path: Path, data: mmap) -> tuple[GPTConfig, int, int]:
        """Return the config, the version, and how many rows zoo added to the embedding."""
        header = data[:_HEADER_BYTES]
        if len(header) < _HEADER_BYTES:
            raise CorruptFile(path, "has a truncated header; copy it again")
        magic, version, *numbers = np.frombuffer(header, "<i4", 2 + len(_NUMBERS)).tolist()
        if magic != MAGIC or version not in _DTYPES:
            known = ", ".join(map(str, _DTYPES))
            raise FormatError(path, f"is not a checkpoint of llm.c in a version that zoo reads ({known})")
        theirs = dict(zip(_NUMBERS, numbers, strict=True))
        if version in _UNPADDED:
            theirs["padded_vocab_size"] = theirs["vocab_size"]
        config, _ = self.config_map.read(theirs, path)
        own = header[_OWN:].rstrip(b"\0")
        if version in _UNPADDED or not own.startswith(_OWN_MARK):
            return config, version, 0
        try:
            config = GPTConfig.from_dict(parse_json(own.removeprefix(_OWN_MARK), path, "its zoo.config"))
            contradicts = self.cannot_hold(config) or self._header(config, version)[:_OWN] != header[:_OWN]
        except (ConfigError, OverflowError) as error:
            raise FormatError(path, f"its zoo.config is impossible: {error}") from error
        if contradicts:
            raise CorruptFile(path, "the config that zoo put into its header contradicts the rest of it")
        return config, version, -config.vocab_rows % _ROWS


def _view(data: mmap, dtype: np.dtype[np.generic], shape: tuple[int, ...], offset: int) -> LazyTensor:
    def load() -> Array:
        return np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape)

    return LazyTensor(shape, dtype, load)
