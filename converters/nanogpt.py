"""The checkpoints of nanoGPT: ckpt.pt, a dict of the state dict, model_args and the state of training.

https://github.com/karpathy/nanoGPT (model.py, and what train.py saves and resumes from). Weights are (out, in). The
head is always tied and always saved too; models compiled by torch.compile have a prefix. A vocabulary of 50304 is
GPT-2's 50257 tokens padded to a multiple of 64; any other is taken as it is.

nanoGPT has computed the exact GELU since June 2023. Its own GPT.from_pretrained loads OpenAI's weights, which were
trained with the tanh approximation, into that model, and so does zoo, with a note. Checkpoints whose
model_args have no `bias` are older than that and mean the approximation.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo.containers.torch.file import write_torch
from zoo.converters.shared.adam_state import read_adam_state
from zoo.converters.shared.characters import META, read_characters
from zoo.converters.shared.configless import checkpoint_of, open_configless, read_records, torch_records
from zoo.converters.shared.masks import causal_mask, is_causal_mask
from zoo.converters.shared.state_dicts import StateDict, normalise, open_state_dict, try_state_dict
from zoo.core.paths import is_there
from zoo.core.tensors import LazyTensor
from zoo.errors import ConfigError, FormatError
from zoo.formats.base import Checkpoint, Format, Known, WriteOptions
from zoo.formats.config_map import ConfigMap, Field
from zoo.formats.rules import Copy, Derived, Rule, Table, weight_and_bias
from zoo.models.gpt2.config import ACTIVATION_DIFFERENCE, GPTConfig
from zoo.text.gpt2 import GPT2_N_TOKENS

_PADDED_ROWS = 50304  # train.py: GPT-2's 50257 rounded up to a multiple of 64


MASK = "transformer.h.{i}.attn.bias"
HEAD = Copy("lm_head.weight", "transformer.wte.weight", written=True)
RULES = (
    Rule("transformer.wte.weight", "tok_emb.weight"),
    Rule("transformer.wpe.weight", "pos_emb.weight"),
    *weight_and_bias("transformer.h.{i}.ln_1", "blocks.{i}.norm1"),
    *weight_and_bias("transformer.h.{i}.attn.c_attn", "blocks.{i}.attn.qkv"),
    *weight_and_bias("transformer.h.{i}.attn.c_proj", "blocks.{i}.attn.out"),
    *weight_and_bias("transformer.h.{i}.ln_2", "blocks.{i}.norm2"),
    *weight_and_bias("transformer.h.{i}.mlp.c_fc", "blocks.{i}.mlp.up"),
    *weight_and_bias("transformer.h.{i}.mlp.c_proj", "blocks.{i}.mlp.down"),
    *weight_and_bias("transformer.ln_f", "final_norm"),
    Rule("lm_head.weight", "head.weight"),
)


class NanoGPT(Format):
    """A ckpt.pt of nanoGPT."""

    name = "nanogpt"
    summary = "nanoGPT: ckpt.pt, from which its train.py can resume and its sample.py can sample"
    suffixes = (".pt",)
    shares = True
    table = Table(RULES, copies=(HEAD,), derived=(Derived(MASK, causal_mask, written=False, accepts=is_causal_mask),))
    # vocab_size counts rows, and bias is one switch for all layers: keys that stand twice are read into both fields,
    # and written from the second.
    config_map = ConfigMap(
        fields=(
            Field("n_layer", "n_layers"),
            Field("n_head", "n_heads"),
            Field("n_embd", "width"),
            Field("block_size", "context_length"),
            Field("bias", "qkv_bias", default=True),
            Field("bias", "bias", default=True),
            Field("vocab_size", "vocab_size"),
            Field("vocab_size", "vocab_rows"),
            Field("dropout", "dropout", default=0.0),
        ),
        implied={"inner_width": 0, "tied": True, "norm_eps": 1e-5},
    )

    def sniff(self, path: Path) -> bool:
        """Whether it is nanoGPT's checkpoint, or a state dict with nanoGPT's names and orientation and no masks."""
        path = _file(path)
        tensors = try_state_dict(path, self.table)
        qkv = tensors.get("transformer.h.0.attn.c_attn.weight")
        if qkv is None or len(qkv.shape) != 2 or qkv.shape[0] != 3 * qkv.shape[1]:
            return False
        return MASK.replace("{i}", "0") not in tensors or "model_args" in open_state_dict(path)[1]

    def read(self, path: Path, known: Known = None) -> Checkpoint:
        """Open the file, or the ckpt.pt in a directory; the state of training is reported and stays behind."""
        path = _file(path)
        tensors, beside = open_state_dict(path)
        own = read_records(path)
        if not isinstance(args := beside.get("model_args"), dict):
            opened = self._read_plain(path, normalise(self.table, tensors, beside, path), known)
        else:
            state = normalise(self.table, tensors, {}, path)
            found = self._read_config(args, own.config, path)
            opened = checkpoint_of(state, path, found, own, _training_state(beside))
            trained = {name: state.tensors[name] for name in state.tensors if name in self.table.shapes(found)}
            opened = replace(opened, adam=read_adam_state(beside, trained))
        meta = path.with_name(META)
        if own.vocabulary is not None or not is_there(meta):
            return opened
        vocabulary = read_characters(meta)
        if vocabulary.n_tokens != opened.config.vocab_size:
            problem = f"has {vocabulary.n_tokens} characters, but the model beside it {opened.config.vocab_size} tokens"
            raise FormatError(meta, f"{problem}; put the model's own there")
        return replace(opened, vocabulary=vocabulary, notes=(*opened.notes, f"the characters are those of {meta.name}"))

    def _read_plain(self, path: Path, state: StateDict, known: Known) -> Checkpoint:
        """Open a state dict without model_args: nanoGPT computes GELU exactly, unless the user says otherwise."""
        fields = {"activation": "gelu", **(known or {})}
        opened = open_configless(self.table, state, path, fields, self.config_map.implied)
        if "activation" in (known or {}):
            return opened
        advice = """trained with its tanh approximation, say --size '{"activation": "gelu_tanh"}'"""
        return replace(opened, notes=(*opened.notes, f"the exact GELU is assumed, as nanoGPT has it; if {advice}"))

    def _read_config(self, args: dict[Any, Any], own: GPTConfig | None, path: Path) -> GPTConfig:
        known = {key for field in self.config_map.fields for key in field.keys}
        if unknown := [str(key) for key in args if key not in known]:
            raise FormatError(path, f"has {', '.join(unknown)} in its model_args, which nanoGPT has not")
        config, _ = self.config_map.read(args, path)
        tokens = GPT2_N_TOKENS if config.vocab_rows == _PADDED_ROWS else config.vocab_rows
        activation = "gelu" if "bias" in args else "gelu_tanh"
        if own:
            tokens, activation = own.vocab_size, own.activation
        try:
            return config.replace(vocab_size=tokens, vocab_rows=config.vocab_rows, activation=activation)
        except ConfigError as error:
            raise FormatError(path, f"its zoo.config contradicts its model_args: {error}") from error

    def write(self, path: Path, checkpoint: Checkpoint, options: WriteOptions) -> None:
        """Write the file with the state of a new optimizer, so that train.py can resume from it."""
        tree = {
            "model": dict(checkpoint.tensors),
            "optimizer": _fresh_optimizer(self.table, checkpoint.config),
            "model_args": self.config_map.write(checkpoint.config),
            "iter_num": 0,
            "best_val_loss": 1e9,
            "config": {},
        }
        write_torch(path, tree, options.on_bytes, torch_records(checkpoint, options.provenance))

    def cannot_hold(self, config: GPTConfig) -> list[str]:
        """Return the reasons why nanoGPT has no such model."""
        reasons = super().cannot_hold(config)
        if config.bias != config.qkv_bias:
            reasons.append(f"it has no place for qkv_bias {config.qkv_bias} beside bias {config.bias} (only for equal)")
        return reasons

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """Return a note if nanoGPT computes another activation than the model."""
        notes = super().notes(checkpoint)
        if checkpoint.config.activation == "gelu_tanh":
            notes.append(f"nanoGPT will compute the exact GELU, not its tanh approximation. {ACTIVATION_DIFFERENCE}")
        return notes


def _file(path: Path) -> Path:
    """Return the checkpoint in an out/ directory of train.py."""
    return path / "ckpt.pt" if is_there(path / "ckpt.pt") else path


def _fresh_optimizer(table: Table, config: GPTConfig) -> dict[str, Any]:
    """Return the state_dict of an AdamW that has made no step, in the two groups of nanoGPT's configure_optimizers.

    The values are train.py's defaults. It sets the learning rate before each step; the other values apply until a
    new training begins.
    """
    shapes = table.shapes(config).values()
    n_decayed = sum(len(shape) >= 2 for shape in shapes)
    common = {
        "lr": 6e-4,
        "betas": (0.9, 0.95),
        "eps": 1e-8,
        "amsgrad": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
    }
    decayed = {**common, "weight_decay": 0.1, "params": list(range(n_decayed))}
    others = {**common, "weight_decay": 0.0, "params": list(range(n_decayed, len(shapes)))}
    return {"state": {}, "param_groups": [decayed, others]}


def _training_state(tree: dict[Any, Any]) -> list[str]:
    """Return a note on the training state beside the model, unless no step has been made."""
    optimizer = tree.get("optimizer")
    state = optimizer.get("state") if isinstance(optimizer, dict) else None
    beside = {"optimizer's state": state, "config": tree.get("config")}
    found = [f"{name} ({len(value)} entries)" for name, value in beside.items() if isinstance(value, dict) and value]
    numbers = [f"{key} {_number(tree[key])}" for key in ("iter_num", "best_val_loss") if key in tree]
    if not found and tree.get("iter_num", 0) == 0:
        return []
    return [f"the file has {', '.join(found + numbers)}; that is not part of the model and is left out"]


def _number(value: Any) -> str:
    if isinstance(value, LazyTensor) and value.size == 1:  # train.py saves the loss as a tensor
        value = float(value.load().astype(np.float64).reshape(()))
    return str(value)[:20]
