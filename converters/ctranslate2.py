"""CTranslate2: a directory with model.bin, config.json and vocabulary.json, written through its own package.

https://github.com/OpenNMT/CTranslate2: python/ctranslate2/specs for the names and the file, GPT2Loader in
python/ctranslate2/converters/transformers.py for how its own converter fills them. Weights lie (out, in). The package
accepts any object with the methods of its Variable, so zoo passes tensors that are loaded when they are written.

In the encoding int8, matrices and the embedding are int8 with a scale for each row, computed by CTranslate2; positions,
norms and biases stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from zoo.core.stream import Progress, ignore_progress
from zoo.core.tensors import CHUNK_BYTES, Array, LazyTensor, contiguous
from zoo.errors import MissingPackage
from zoo.formats.base import Checkpoint, Format, WriteOptions
from zoo.formats.config_map import ConfigMap
from zoo.formats.rules import Copy, Rule, Table, weight_and_bias
from zoo.text.gpt2 import END_OF_TEXT
from zoo.text.vocabulary import Vocabulary

_EMBEDDING, _HEAD = "decoder/embeddings/weight", "decoder/projection/weight"
_LAYER = "decoder/layer_{i}"
_MAGIC = b"TransformerDecoderSpec\0"  # the name of the spec, after 4 bytes of version and 2 of length
_ACTIVATIONS = {"gelu_tanh": "GELUTanh", "gelu": "GELU"}


_linear = partial(weight_and_bias, weight="/weight", bias="/bias")
_norm = partial(weight_and_bias, weight="/gamma", bias="/beta")


class CTranslate2(Format):
    """A directory that ctranslate2.Generator runs."""

    name = "ctranslate2"
    summary = "CTranslate2: model.bin, config.json and vocabulary.json in a directory, int8 if asked for"
    is_directory = True
    reads = False
    encodings = ("int8",)
    table = Table(
        (
            Rule(_EMBEDDING, "tok_emb.weight"),
            Rule("decoder/position_encodings/encodings", "pos_emb.weight"),
            *_norm(f"{_LAYER}/self_attention/layer_norm", "blocks.{i}.norm1"),
            *_linear(f"{_LAYER}/self_attention/linear_0", "blocks.{i}.attn.qkv"),
            *_linear(f"{_LAYER}/self_attention/linear_1", "blocks.{i}.attn.out"),
            *_norm(f"{_LAYER}/ffn/layer_norm", "blocks.{i}.norm2"),
            *_linear(f"{_LAYER}/ffn/linear_0", "blocks.{i}.mlp.up"),
            *_linear(f"{_LAYER}/ffn/linear_1", "blocks.{i}.mlp.down"),
            *_norm("decoder/layer_norm", "final_norm"),
            Rule(_HEAD, "head.weight"),
        ),
        copies=(Copy(_HEAD, _EMBEDDING, written=False),),
    )
    config_map = ConfigMap(fields=())

    def sniff(self, path: Path) -> bool:
        """Return whether it is the model.bin of a CTranslate2 decoder, or a directory with one."""
        file = path / "model.bin" if path.is_dir() else path
        if not file.is_file():
            return False
        with file.open("rb") as opened:
            return opened.read(6 + len(_MAGIC))[6:] == _MAGIC

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write the directory, and the tokenizer's files, which CTranslate2 itself does not need."""
        specs = _specs()
        tokens = _tokens(checkpoint.vocabulary, checkpoint.config.vocab_rows)
        spec = _empty_spec(specs, checkpoint, tokens)
        spec.register_vocabulary(tokens)
        tensors = dict(checkpoint.tensors)
        tensors.setdefault(_HEAD, tensors[_EMBEDDING])  # the same tensor: CTranslate2 makes an alias of it
        for name, tensor in tensors.items():
            _put(spec, name, _Variable(tensor, options.on_bytes))
            if name.endswith("/gamma") and not checkpoint.config.bias:  # a norm there always adds something
                zeros = LazyTensor.of(np.zeros(tensor.shape, tensor.dtype))
                _put(spec, name.replace("/gamma", "/beta"), _Variable(zeros))
        spec.validate()
        spec.optimize()
        if options.encoding:
            _quantise(spec, options.on_bytes)
        path.mkdir()
        spec.save(str(path))
        for name, content in checkpoint.vocabulary.content.items():
            (path / name).write_bytes(content)
        # Keys that CTranslate2 does not know are passed over.
        spec.config.add_attribute("zoo_config", checkpoint.config.to_dict())
        spec.config.add_attribute("zoo_provenance", options.provenance())
        spec.config.save_as_json(str(path / "config.json"))

    def nbytes(self, name: str, tensor: LazyTensor, encoding: str) -> int:
        """Return the bytes of a tensor in the file."""
        return tensor.size + 4 * tensor.shape[0] if encoding and name.endswith("/weight") else tensor.nbytes

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """Tell of tokens that CTranslate2 takes otherwise than zoo."""
        vocabulary = checkpoint.vocabulary
        notes = []
        if not vocabulary.tokens:
            notes.append("there is no vocabulary, so CTranslate2's tokens are called [PAD0], [PAD1] and so on")
        if not vocabulary.special.eos:
            notes.append("no token ends a text, so CTranslate2 continues to its max_length")
        return notes

    def unheld(self, checkpoint: Checkpoint) -> list[str]:
        """Say which ends of a text are left out: CTranslate2 knows one."""
        others = checkpoint.vocabulary.special.eos[1:]
        return [f"CTranslate2 does not store the eos ids {', '.join(map(str, others))}"] if others else []


@dataclass(frozen=True)
class _Variable:
    """The methods of Variable that CTranslate2 calls (python/ctranslate2/specs/model_spec.py) to alias and write."""

    tensor: LazyTensor
    on_bytes: Progress = ignore_progress

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def dtype(self) -> str:
        return self.tensor.dtype.name

    def is_scalar(self) -> bool:
        return False

    def equal(self, other: object) -> bool:
        return isinstance(other, _Variable) and other.tensor is self.tensor

    def num_bytes(self) -> int:
        return self.tensor.nbytes

    def to_bytes(self) -> memoryview:
        self.on_bytes(self.tensor.nbytes)
        return contiguous(self.tensor.load()).reshape(-1).view(np.uint8).data


def _specs() -> Any:
    try:
        return import_module("ctranslate2.specs")
    except ImportError as error:
        hint = "run `pip install 'gpt2-zoo[ctranslate2]'`"
        raise MissingPackage(f"this format needs the package ctranslate2; {hint}") from error


def _empty_spec(specs: Any, checkpoint: Checkpoint, tokens: list[str]) -> Any:
    """Return the spec of a GPT-2 without its tensors, as CTranslate2's GPT2Loader makes it."""
    config, special = checkpoint.config, checkpoint.vocabulary.special
    activation = specs.Activation[_ACTIVATIONS[config.activation]]
    model = specs.TransformerDecoderModelSpec
    spec = model.from_config(config.n_layers, config.n_heads, pre_norm=True, activation=activation)
    spec.decoder.scale_embeddings = False
    eos = tokens[special.eos[0]] if special.eos else None
    bos = eos if special.bos is None else tokens[special.bos]
    # CTranslate2 wants names for all three; one that is not a token is never generated.
    for role, token in (("bos_token", bos), ("eos_token", eos), ("unk_token", eos)):
        spec.config.add_attribute(role, token or END_OF_TEXT)
    spec.config.add_attribute("layer_norm_epsilon", config.norm_eps)
    return spec


def _put(spec: Any, name: str, variable: _Variable) -> None:
    """Set a variable by its name in the file, such as decoder/layer_0/ffn/linear_0/weight."""
    scope, _, attribute = name.rpartition("/")
    setattr(import_module("ctranslate2.specs.model_spec").index_spec(spec, scope), attribute, variable)


def _quantise(spec: Any, on_bytes: Progress) -> None:
    """Replace the weights of a spec by int8 and scales."""
    for name, found in spec.variables().items():
        if name.endswith("/weight") and isinstance(found, _Variable):  # an alias is a string
            shape = found.shape
            values = LazyTensor(shape, np.dtype(np.int8), partial(_quantised, found.tensor, "weight"))
            scales = LazyTensor(shape[:1], np.dtype(np.float32), partial(_quantised, found.tensor, "weight_scale"))
            _put(spec, name, _Variable(values, on_bytes))
            _put(spec, f"{name}_scale", _Variable(scales, on_bytes))


def _quantised(tensor: LazyTensor, part: str) -> Array:
    """Return a matrix as CTranslate2 quantises it, or the scales; some rows at a time, since each has a scale."""
    common_spec = import_module("ctranslate2.specs.common_spec")
    array, pieces = tensor.load(), []
    rows = max(1, CHUNK_BYTES // (4 * array.shape[1]))
    for start in range(0, len(array), rows):
        spec = common_spec.LinearSpec()
        spec.weight = array[start : start + rows].astype(np.float32)  # a copy, which is then changed in place
        spec.validate()
        spec.optimize("int8")
        pieces.append(getattr(spec, part).numpy())
    return np.concatenate(pieces)


def _tokens(vocabulary: Vocabulary, rows: int) -> list[str]:
    """Return a token for each row of the embedding, as CTranslate2 wants; tokens without a row are left out."""
    tokens = [f"[PAD{i}]" for i in range(rows)]
    for text, i in vocabulary.tokens.items():
        if i < rows:
            tokens[i] = text
    return tokens
