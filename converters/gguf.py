"""llama.cpp's GGUF files of architecture gpt2: F32, F16, BF16 and quantised.

Names and keys: conversion/gpt2.py, conversion/base.py and src/models/gpt2.cpp of https://github.com/ggml-org/llama.cpp.
As its converter does, norms, biases and positions are always stored in float32, as ggml's
operations require; a cast leaves them as they are. A model that has them in float16 or bfloat16 would then come
back with wider tensors than it had; a key of zoo's own, zoo.dtypes, says what to narrow again. llama.cpp ignores
keys that it does not know.

In a quantised file the matrices have the type of the encoding. Exceptions: the embedding and an untied head are always
Q8_0 (llama-quantize uses Q6_K or better for these), and a matrix whose rows are not a multiple of 32 values long stays
float32. Quantised tensors are read as float32, and so are all tensors of a quantised file that zoo wrote.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from zoo.containers.files import parse_json
from zoo.containers.gguf.quants import PLAIN, QUANTS, decoded, encoded, nbytes
from zoo.containers.gguf.reader import GgufFile, Value, read_architecture, read_gguf
from zoo.containers.gguf.writer import PROVENANCE, write_gguf
from zoo.converters.shared.gguf_vocabulary import read_vocabulary, unheld, write_vocabulary
from zoo.core.tensors import DTYPES, Array, LazyTensor, Tensors, same_bits
from zoo.errors import CorruptFile, FormatError
from zoo.formats.base import Checkpoint, Format, Known, WriteOptions
from zoo.formats.config_map import ConfigMap, Constant, Field
from zoo.formats.content_hash import RECORD
from zoo.formats.mapping import same_tensor
from zoo.formats.rules import Copy, Rule, Table, weight_and_bias

_EMBEDDING, _POSITIONS, _HEAD = "token_embd.weight", "position_embd.weight", "output.weight"
_ROWS, _EPS, _TOKENS, _TIED = "gpt2.vocab_size", "gpt2.attention.layer_norm_epsilon", "zoo.vocab_size", "zoo.tied"
_EXACT_EPS = "zoo.norm_eps"  # llama.cpp's is a float32; only an epsilon that is not exact there is written twice
_DTYPES = "zoo.dtypes"
_BLOCK = 32  # values, of every type that is written
# llama_ftype of llama.cpp's include/llama.h, by the type of most matrices; llama.cpp only shows it
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q4_0": 2, "Q5_0": 8, "Q8_0": 7}


class GGUF(Format):
    """A .gguf file that llama.cpp runs."""

    name = "gguf"
    summary = "llama.cpp: one .gguf file with config and tokenizer, quantised if asked for (q8_0, q5_0, q4_0)"
    suffixes = (".gguf",)
    encodings = ("q8_0", "q5_0", "q4_0")
    variants: ClassVar[dict[str, str]] = {
        "untied": "with a copy of the embedding as output.weight, which older readers want"
    }
    table = Table(
        (
            Rule(_EMBEDDING, "tok_emb.weight"),
            Rule(_POSITIONS, "pos_emb.weight"),
            *weight_and_bias("blk.{i}.attn_norm", "blocks.{i}.norm1"),
            *weight_and_bias("blk.{i}.attn_qkv", "blocks.{i}.attn.qkv"),
            *weight_and_bias("blk.{i}.attn_output", "blocks.{i}.attn.out"),
            *weight_and_bias("blk.{i}.ffn_norm", "blocks.{i}.norm2"),
            *weight_and_bias("blk.{i}.ffn_up", "blocks.{i}.mlp.up"),
            *weight_and_bias("blk.{i}.ffn_down", "blocks.{i}.mlp.down"),
            *weight_and_bias("output_norm", "final_norm"),
            Rule(_HEAD, "head.weight"),
        ),
        copies=(Copy(_HEAD, _EMBEDDING, written=False),),
    )
    config_map = ConfigMap(
        fields=(
            Field("gpt2.context_length", "context_length"),
            Field("gpt2.embedding_length", "width"),
            Field("gpt2.feed_forward_length", "inner_width"),
            Field("gpt2.block_count", "n_layers"),
            Field("gpt2.attention.head_count", "n_heads"),
            Field((_EXACT_EPS, _EPS), "norm_eps"),
            Field(_ROWS, "vocab_rows"),
            Field(_TOKENS, "vocab_size"),
            Field(_TIED, "tied"),
            Field("zoo.dropout", "dropout", default=0.1),
        ),
        constants=(Constant("general.architecture", "gpt2"), Constant("general.quantization_version", 2)),
        implied={"qkv_bias": True, "bias": True, "activation": "gelu_tanh"},
    )

    def layout(self, variant: str) -> Table:
        """Return the table with the copy of the embedding for the variant untied."""
        return replace(self.table, copies=(Copy(_HEAD, _EMBEDDING, written=True),)) if variant else self.table

    def sniff(self, path: Path) -> bool:
        """Whether it is a GGUF file of architecture gpt2, or one that is damaged before it says its architecture."""
        return path.is_file() and read_architecture(path) in ("gpt2", "")

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open the file and use its own config. In a foreign file, a head that equals the embedding counts as tied."""
        found = read_gguf(path)
        scalars = {key: value for key, value in found.metadata.items() if isinstance(value, str | int | float)}
        if scalars.get("general.architecture") != "gpt2":
            raise FormatError(path, f"its architecture is {scalars.get('general.architecture')!r}; zoo reads gpt2")
        if scalars.get("split.count", 1) != 1:
            raise FormatError(path, "is one of several parts; merge them with llama-gguf-split --merge first")
        vocabulary, n_tokens, notes = read_vocabulary(found.metadata, path)
        embedding, head = found.tensors.get(_EMBEDDING), found.tensors.get(_HEAD)
        if embedding is None or len(embedding.shape) != 2:
            raise FormatError(path, f"has no {_EMBEDDING}, so it is not a GPT-2")
        scalars.setdefault(_ROWS, embedding.shape[0])
        scalars.setdefault(_TOKENS, n_tokens or embedding.shape[0])
        if _TIED not in scalars:
            scalars[_TIED] = head is None or same_tensor(head, embedding)
        read, more = self.config_map.read(scalars, path)
        if quantised := [type_name for type_name in QUANTS if type_name in found.types.values()]:
            notes.append(f"its {' and '.join(quantised)} tensors are read as float32")
        provenance = parse_json(str(found.metadata.get(PROVENANCE, "{}")).encode(), path, "its provenance")
        if quantised and "encoding" not in provenance:  # by llama-quantize, which keeps the record of other values
            provenance.pop(RECORD, None)
        return Checkpoint(
            path,
            read,
            _narrowed(found, path),
            vocabulary=vocabulary,
            files=(path,),
            provenance=provenance,
            notes=(*notes, *more),
        )

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write one file, version 3."""
        config = checkpoint.config
        typed = {name: (_type(name, tensor, options.encoding), tensor) for name, tensor in checkpoint.tensors.items()}
        metadata: dict[str, Value | np.float32] = {
            **self.config_map.write(config),
            _EPS: np.float32(config.norm_eps),
            "general.type": "model",
            "general.name": options.name or "GPT-2",
            "general.size_label": _size_label(config.n_parameters),
            "general.file_type": _FILE_TYPES[typed["blk.0.attn_qkv.weight"][0]],
            **write_vocabulary(checkpoint.vocabulary, config.vocab_rows),
        }
        if float(str(np.float32(config.norm_eps))) == config.norm_eps:
            del metadata[_EXACT_EPS]
        if not options.encoding and (widened := _widened(checkpoint.tensors)):
            metadata[_DTYPES] = json.dumps(widened)
        write_gguf(path, metadata, typed, options.provenance, options.on_bytes)

    def narrows(self, ours: str, shape: tuple[int, ...]) -> bool:
        """Exclude vectors and positions, which are always stored in float32."""
        return len(shape) > 1 and ours != "pos_emb.weight"

    def stored(self, name: str, tensor: LazyTensor, encoding: str) -> LazyTensor:
        """Return the quantised tensor as it is read back, in float32."""
        kind = _type(name, tensor, encoding)
        return decoded(encoded(name, tensor, kind), kind, tensor.shape)

    def nbytes(self, name: str, tensor: LazyTensor, encoding: str) -> int:
        """Return the bytes of a tensor in the file."""
        return nbytes(_type(name, tensor, encoding), tensor.shape)

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """Return notes on matrices that are never quantised and on a missing end of text."""
        odd = sorted({n for n in (checkpoint.config.width, checkpoint.config.inner_width) if n % _BLOCK})
        notes = [f"rows of {n} values are not a multiple of 32, so such matrices are never quantised" for n in odd]
        if checkpoint.vocabulary.is_plain and not checkpoint.vocabulary.special.eos:
            notes.append("no token ends a text; llama.cpp then takes the token 11 for it")
        return notes

    def unheld(self, checkpoint: Checkpoint) -> list[str]:
        """Return notes on the parts of the vocabulary that the file cannot hold."""
        return unheld(checkpoint.vocabulary)


def _type(name: str, tensor: LazyTensor, encoding: str) -> str:
    """Return ggml's name of the type in which a tensor is stored."""
    if len(tensor.shape) < 2 or name == _POSITIONS:
        return "F32"
    if not encoding:
        return next(type_name for type_name, dtype in PLAIN.items() if dtype == tensor.dtype)
    if tensor.shape[-1] % _BLOCK:
        return "F32"
    return "Q8_0" if name in (_EMBEDDING, _HEAD) else encoding.upper()


def _size_label(n: int) -> str:
    """Return a number of parameters as llama.cpp's converter rounds it: 124M, 1.6B, 39K."""
    scale, unit = next((pair for pair in ((1e12, "T"), (1e9, "B"), (1e6, "M")) if n > pair[0]), (1e3, "K"))
    digits = len(str(round(n / scale)).lstrip("0"))
    return f"{n / scale:.{max(2 - digits, 0)}f}{unit}"


def _widened(tensors: Tensors) -> dict[str, str]:
    """Return the dtypes of the tensors that are stored in another one."""
    return {name: str(t.dtype) for name, t in tensors.items() if PLAIN[_type(name, t, "")] != t.dtype}


def _narrowed(found: GgufFile, path: Path) -> dict[str, LazyTensor]:
    """Return a file's tensors in the dtypes they had before they were widened."""
    text = found.metadata.get(_DTYPES, "{}")
    dtypes = parse_json(str(text).encode(), path, f"its {_DTYPES}")
    if any(type_name in QUANTS for type_name in found.types.values()):  # quantised later, by llama-quantize
        return found.tensors
    tensors = dict(found.tensors)
    for name, dtype in dtypes.items():
        if dtype not in ("float16", "bfloat16") or found.types.get(name) != "F32":
            raise CorruptFile(path, f"its {_DTYPES} does not fit its tensors: {name} {dtype!r}")
        tensors[name] = _narrow(name, tensors[name], DTYPES[dtype], path)
    return tensors


def _narrow(name: str, wide: LazyTensor, dtype: np.dtype[np.generic], path: Path) -> LazyTensor:
    def load() -> Array:
        array = wide.load()
        if dtype == DTYPES["bfloat16"]:  # its upper half; a cast would change NaNs
            narrow = (array.view(np.uint32) >> 16).astype(np.uint16).view(dtype)
        else:
            with np.errstate(over="ignore"):
                narrow = array.astype(dtype)
        if not same_bits(narrow.astype(np.float32), array):
            raise CorruptFile(path, f"tensor {name} is not {dtype}, as its {_DTYPES} says; write the file again")
        return narrow

    return LazyTensor(wide.shape, dtype, load)
