"""Hugging Face transformers: a directory with config.json, weights (whole or sharded) and tokenizer files.

Names and shapes: transformers/models/gpt2/modeling_gpt2.py. Linear weights lie (in, out): its Conv1D.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zoo.config import GPTConfig
from zoo.config_map import ConfigMap, Constant, Field
from zoo.converters._files import inside, read_json, write_json
from zoo.converters._safetensors import is_safetensors, read_metadata, read_provenance, write_safetensors
from zoo.converters._state_dict import read_state_dict
from zoo.errors import CheckpointMismatch, FormatError
from zoo.format import Checkpoint, Format, WriteOptions
from zoo.mapping import Copy, Derived, Rule, Table, strip_prefix
from zoo.tensors import LazyTensor
from zoo.vocabulary import END_OF_TEXT, HF_NAMES, Vocabulary

_PREFIX = "transformer."
_TOKENS = "zoo_vocab_size"  # config.json knows only the rows; transformers passes over keys it does not know
_SPECIAL_IDS = ("bos_token_id", "eos_token_id")
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def _causal_mask(config: GPTConfig) -> LazyTensor:
    t = config.context_length
    return LazyTensor((1, 1, t, t), np.dtype(np.float32), lambda: np.tril(np.ones((t, t), np.float32))[None, None])


def _masked_bias(_: GPTConfig) -> LazyTensor:
    return LazyTensor.of(np.array(-1e4, np.float32))


def _pair(theirs: str, ours: str, how: str = "") -> tuple[Rule, ...]:
    return Rule(f"{theirs}.weight", f"{ours}.weight", how), Rule(f"{theirs}.bias", f"{ours}.bias")


class HuggingFace(Format):
    """A directory that transformers' from_pretrained reads."""

    name = "huggingface"
    summary = "Hugging Face transformers: config.json, safetensors (or pytorch_model.bin when reading), tokenizer"
    is_directory = True
    table = Table(
        (
            Rule("wte.weight", "tok_emb.weight"),
            Rule("wpe.weight", "pos_emb.weight"),
            *_pair("h.{i}.ln_1", "blocks.{i}.norm1"),
            *_pair("h.{i}.attn.c_attn", "blocks.{i}.attn.qkv", "i o -> o i"),
            *_pair("h.{i}.attn.c_proj", "blocks.{i}.attn.out", "i o -> o i"),
            *_pair("h.{i}.ln_2", "blocks.{i}.norm2"),
            *_pair("h.{i}.mlp.c_fc", "blocks.{i}.mlp.up", "i o -> o i"),
            *_pair("h.{i}.mlp.c_proj", "blocks.{i}.mlp.down", "i o -> o i"),
            *_pair("ln_f", "final_norm"),
            Rule("lm_head.weight", "head.weight"),
        ),
        copies=(Copy("lm_head.weight", "wte.weight", written=False),),
        derived=(
            Derived("h.{i}.attn.bias", _causal_mask, written=False),
            Derived("h.{i}.attn.masked_bias", _masked_bias, written=False),
        ),
    )
    config_map = ConfigMap(
        fields=(
            Field("vocab_size", "vocab_rows"),
            Field(_TOKENS, "vocab_size"),
            Field(("n_positions", "n_ctx"), "context_length", default=1024),
            Field("n_embd", "width", default=768),
            Field("n_head", "n_heads", default=12),
            Field("n_layer", "n_layers", default=12),
            Field("n_inner", "inner_width", default=0),
            Field(("resid_pdrop", "embd_pdrop", "attn_pdrop"), "dropout", default=0.1),
            Field("layer_norm_epsilon", "norm_eps", default=1e-5),
            Field(
                "activation_function",
                "activation",
                default="gelu_new",
                values={"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"},
            ),
            Field("tie_word_embeddings", "tied", default=True),
        ),
        constants=(
            Constant("model_type", "gpt2"),
            Constant("scale_attn_weights", True),
            Constant("scale_attn_by_inverse_layer_idx", False),
            Constant("add_cross_attention", False),
        ),
        implied={"qkv_bias": True, "bias": True},
    )

    def sniff(self, path: Path) -> bool:
        """Whether it is a directory with config.json and weights, or the weights file in such a directory."""
        if path.is_file():
            return path.name in _WEIGHTS and self.sniff(path.parent)
        return (path / "config.json").is_file() and any((path / name).exists() for name in _WEIGHTS)

    def read(self, path: Path, config: GPTConfig | None = None) -> Checkpoint:
        """Open a directory; of several kinds of weights in it, safetensors before pytorch_model.bin."""
        directory = path if path.is_dir() else path.parent
        config_file = directory / "config.json"
        theirs = read_json(config_file)
        theirs.setdefault(_TOKENS, theirs.get("vocab_size"))
        found, notes = self.config_map.read(theirs, config_file)
        tensors, weight_files, provenance = _read_weights(directory)
        prefix, tensors = strip_prefix(tensors, (_PREFIX,))
        return Checkpoint(
            path,
            found,
            tensors,
            prefix=prefix,
            vocabulary=Vocabulary.read(directory),
            files=(config_file, *weight_files),
            provenance=provenance,
            notes=tuple(notes),
        )

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write one model.safetensors under the names that transformers itself saves, and the tokenizer's files."""
        path.mkdir()
        config = checkpoint.config
        theirs = self.config_map.write(config)
        if config.vocab_size == config.vocab_rows:
            del theirs[_TOKENS]
        dtypes = sorted({str(tensor.dtype) for tensor in checkpoint.tensors.values()})
        theirs |= {
            "architectures": ["GPT2LMHeadModel"],
            "dtype": dtypes[0] if len(dtypes) == 1 else "float32",
        }
        # Without a vocabulary nobody knows these ids; left out, transformers would take GPT-2's.
        theirs |= dict.fromkeys(_SPECIAL_IDS)
        if checkpoint.vocabulary:
            theirs |= _write_tokenizer(path, checkpoint.vocabulary, config)
        write_json(path / "config.json", theirs)
        named = {name if name == "lm_head.weight" else _PREFIX + name: t for name, t in checkpoint.tensors.items()}
        write_safetensors(path / "model.safetensors", named, {"format": "pt"}, checkpoint.provenance, options.on_bytes)


def _read_weights(directory: Path) -> tuple[dict[str, LazyTensor], list[Path], dict[str, Any]]:
    """Open the weights of a directory: tensors, the files they are in, and zoo's provenance if it is there."""
    file = next(directory / name for name in _WEIGHTS if (directory / name).exists())
    if file.suffix != ".json":
        provenance = read_provenance(file, read_metadata(file)) if is_safetensors(file) else {}
        return read_state_dict(file), [file], provenance
    weight_map = read_json(file).get("weight_map")
    if not isinstance(weight_map, dict):
        raise FormatError(file, "has no weight_map, so its shards are unknown; copy it again")
    shards = {name: inside(directory, name, file) for name in dict.fromkeys(weight_map.values())}
    tensors: dict[str, LazyTensor] = {}
    problems: list[str] = []
    for name, shard in shards.items():
        held = read_state_dict(shard)
        listed = {tensor for tensor, where in weight_map.items() if where == name}
        problems += [f"{tensor} is not in {name}, where the index says" for tensor in listed - set(held)]
        problems += [f"{tensor} is in {name}, but not in the index" for tensor in set(held) - listed]
        tensors |= held
    if problems:
        raise CheckpointMismatch(file, sorted(problems))
    return tensors, [file, *shards.values()], {}


def _write_tokenizer(path: Path, vocabulary: Vocabulary, config: GPTConfig) -> dict[str, Any]:
    """Write the tokenizer's files, and return what config.json says of it."""
    for name, content in vocabulary.files(HF_NAMES).items():
        (path / name).write_bytes(content)
    end = vocabulary.tokens.get(END_OF_TEXT)
    special = {} if end is None else dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": config.context_length, **special}
    write_json(path / "tokenizer_config.json", settings)
    ids = dict.fromkeys(_SPECIAL_IDS, end)
    write_json(path / "generation_config.json", ids)
    return ids
