"""The two files of a LoRA adapter as PEFT writes them: which low-rank matrices belong to which linear layer.

adapter_config.json says how (peft/tuners/lora/config.py), adapter_model.safetensors (or .bin) holds, for every adapted
layer of a GPT2LMHeadModel, base_model.model.transformer.h.N.<layer>.lora_A.weight (rank, in) and .lora_B.weight (out,
rank). The adapted layer computes with W + scaling * B A; there W is stored transposed, which A and B are not. With
bias = "lora_only" or "all", the file also has the trained biases, which replace the base's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.containers.files import read_json, write_json
from zoo.containers.safetensors import read_safetensors, write_safetensors
from zoo.containers.torch.file import read_torch
from zoo.core.tensors import LazyTensor
from zoo.errors import CannotHold, CheckpointMismatch, FormatError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_BIN = "adapter_model.bin"

MAX_ALPHA = 1e6
"""Far above any; beyond it the merged weights would not be finite."""

THEIRS = {"attn.qkv": "attn.c_attn", "attn.out": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
"""Our linear layers and what they are called there."""

_OURS = {theirs: ours for ours, theirs in THEIRS.items()}
_NAME = re.compile(
    rf"base_model\.model\.(?:transformer\.)?h\.(\d{{1,4}})\.({'|'.join(map(re.escape, _OURS))})\.lora_([AB])\.weight"
)
_NORMS = {"ln_1": "norm1", "ln_2": "norm2"}
_BIAS = re.compile(
    rf"base_model\.model\.(?:transformer\.)?(?:h\.(\d{{1,4}})\.({'|'.join(map(re.escape, _OURS | _NORMS))})|ln_f)"
    r"(?:\.base_layer)?\.bias"
)
# What else LoRA can be in PEFT, and zoo does not compute: any value but these (or none) is refused.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none", "lora_only", "all"),
    "use_dora": (False,),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "modules_to_save": ([],),
    "lora_bias": (False,),
    "target_parameters": ([],),
    "trainable_token_indices": ([],),
    "alora_invocation_tokens": ([],),
    "layer_replication": ([],),
    "arrow_config": ({},),
}


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter.

    Attributes:
        rank: of the matrices.
        alpha: they count alpha / rank (alpha / sqrt(rank) if rank_stabilised).
        dropout: of their input, in training.
        base: path of the checkpoint that it adapts, as written; "" where none was.
        pairs: A (rank, in) and B (out, rank) by the name of our layer, such as "blocks.0.attn.qkv".
        rank_stabilised: whether alpha is divided by the square root of the rank.
        biases: those that replace the base's, by their names in zoo, such as "blocks.0.norm1.bias".
        file: with the matrices; None for an adapter in memory.
    """

    rank: int
    alpha: float
    dropout: float
    base: str
    pairs: Mapping[str, tuple[LazyTensor, LazyTensor]]
    rank_stabilised: bool = False
    biases: Mapping[str, LazyTensor] = field(default_factory=dict)
    file: Path | None = None

    @property
    def scaling(self) -> float:
        """What B A is multiplied with."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


def is_adapter(path: Path) -> bool:
    """Whether a path is a directory with an adapter, or its weights."""
    directory = _directory(path)
    return (directory / CONFIG).is_file() and any((directory / name).is_file() for name in (WEIGHTS, _BIN))


def read_adapter(path: Path) -> Adapter:
    """Open the adapter in a directory (or of which the path is the weights).

    Raises:
        FormatError: it is damaged, or a kind of adapter that zoo does not compute.
    """
    directory = _directory(path)
    file = directory / CONFIG
    config = read_json(file)
    if config.get("peft_type") != "LORA":
        raise FormatError(file, f"its peft_type is {config.get('peft_type')!r}; zoo reads LORA only")
    for key, plain in _PLAIN.items():
        if config.get(key) is not None and config[key] not in plain:
            raise FormatError(
                file, f"has {key} = {config[key]!r}, which zoo does not compute; merge it with PEFT first"
            )
    rank = config.get("r")
    if type(rank) is not int or rank < 1:
        raise FormatError(file, f"its rank r must be an integer of at least 1, not {rank!r}")
    alpha = _number(file, config, "lora_alpha", -MAX_ALPHA, MAX_ALPHA)
    dropout = _number(file, {"lora_dropout": 0.0, **config}, "lora_dropout", 0, 1)
    base, stabilised = config.get("base_model_name_or_path") or "", config.get("use_rslora") is True
    if not isinstance(base, str) or "\0" in base:
        raise FormatError(file, f"its base_model_name_or_path is not a path but {base!r}")
    is_bin = (directory / _BIN).is_file() and not (directory / WEIGHTS).is_file()
    weights = directory / (_BIN if is_bin else WEIGHTS)
    pairs, biases = _read_tensors(weights, rank, has_biases=config.get("bias") in ("lora_only", "all"))
    return Adapter(rank, alpha, dropout, base, pairs, stabilised, biases, weights)


def _directory(path: Path) -> Path:
    return path.parent if path.name in (WEIGHTS, _BIN) else path


def _number(file: Path, config: Mapping[str, Any], key: str, low: float, high: float) -> float:
    value = config.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise FormatError(file, f"its {key} must be a number from {low:g} to {high:g}, not {value!r}")
    return float(value)


def _open(path: Path) -> dict[str, LazyTensor]:
    """Open the tensors of an adapter.

    Raises:
        FormatError: There are none, or they are those of another architecture.
    """
    tensors = read_safetensors(path)[0] if path.name == WEIGHTS else read_torch(path)
    if not isinstance(tensors, dict) or not all(isinstance(each, LazyTensor) for each in tensors.values()):
        raise FormatError(path, "is not a dict of tensors; save the adapter again with PEFT's save_pretrained")
    if not tensors:
        raise FormatError(path, "has no tensors; save the adapter again with PEFT's save_pretrained")
    if not any(_NAME.fullmatch(str(name)) for name in tensors):
        first = f"{next(iter(tensors))!s:.100}"
        raise FormatError(path, f"is an adapter of another architecture than GPT-2 (its first tensor is {first})")
    return tensors


def _read_tensors(
    path: Path, rank: int, *, has_biases: bool
) -> tuple[dict[str, tuple[LazyTensor, LazyTensor]], dict[str, LazyTensor]]:
    """Return the matrices of the adapted layers, and the biases.

    Raises:
        CheckpointMismatch: A tensor has no place, or the wrong shape.
    """
    found: dict[str, dict[str, LazyTensor]] = {}
    biases: dict[str, LazyTensor] = {}
    problems = []
    for name, tensor in _open(path).items():
        if has_biases and (match := _BIAS.fullmatch(name)):
            layer = f"blocks.{int(match[1])}.{(_OURS | _NORMS)[match[2]]}" if match[2] else "final_norm"
            biases[f"{layer}.bias"] = tensor
            continue
        match = _NAME.fullmatch(str(name))
        if match is None:
            problems.append(f"tensor {name} belongs to no linear layer of a GPT-2")
            continue
        axis = 0 if match[3] == "A" else 1
        if len(tensor.shape) != 2 or tensor.shape[axis] != rank:
            problems.append(f"tensor {name} has shape {tensor.shape}, but the rank is {rank}")
        found.setdefault(f"blocks.{int(match[1])}.{_OURS[match[2]]}", {})[match[3]] = tensor
    problems += [
        f"the adapter of {name} has only its {next(iter(pair))}" for name, pair in found.items() if len(pair) < 2
    ]
    if problems:
        raise CheckpointMismatch(path, problems)
    return {name: (pair["A"], pair["B"]) for name, pair in found.items()}, biases


def write_adapter(directory: Path, adapter: Adapter) -> None:
    """Write an adapter into an existing directory.

    Raises:
        CannotHold: a layer is none that PEFT knows of.
        OSError: the disk is full, or the path cannot be written.
    """
    tensors: dict[str, LazyTensor] = {}
    targets: dict[str, None] = {}
    for name, (a, b) in adapter.pairs.items():
        _, layer, ours = name.split(".", 2)
        if ours not in THEIRS:
            raise CannotHold(f"PEFT has no name for an adapter of {name}; adapt {', '.join(THEIRS)} only")
        targets[THEIRS[ours]] = None
        theirs = f"base_model.model.transformer.h.{layer}.{THEIRS[ours]}"
        tensors |= {f"{theirs}.lora_A.weight": a, f"{theirs}.lora_B.weight": b}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base or None,
        "r": adapter.rank,
        "lora_alpha": int(adapter.alpha) if adapter.alpha.is_integer() else adapter.alpha,
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rank_stabilised,
        "target_modules": list(targets),
        "fan_in_fan_out": True,  # transformers' Conv1D stores (in, out)
        "bias": "none",
        "inference_mode": True,
    }
    write_json(directory / CONFIG, config)
    write_safetensors(directory / WEIGHTS, tensors, {"format": "pt"})
