"""The two files of a LoRA adapter as PEFT writes them: which low-rank matrices belong to which linear layer.

adapter_config.json says how (peft/tuners/lora/config.py). adapter_model.safetensors, or the older adapter_model.bin,
holds base_model.model.transformer.h.N.<layer>.lora_A.weight (rank, in) and .lora_B.weight (out, rank) for every adapted
layer of a GPT2LMHeadModel. The adapted layer computes with W + scaling * B A; there W is stored transposed, which A and
B are not. With bias "lora_only" or "all" the file also has the biases that were trained, which replace the base's.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.containers.files import read_json, write_json
from zoo.containers.safetensors import read_safetensors, write_safetensors
from zoo.containers.torch.file import read_torch
from zoo.core.tensors import LazyTensor
from zoo.errors import CannotHold, CheckpointMismatch, FormatError
from zoo.models.registry import is_registered

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
OLD_WEIGHTS = "adapter_model.bin"

MAX_ALPHA = 1e6
"""Far above any; beyond it the merged weights would not be finite."""

THEIRS = {"attn.qkv": "attn.c_attn", "attn.out": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
"""Our linear layers and what they are called there."""

_OURS = {theirs: ours for ours, theirs in THEIRS.items()}
_PREFIX = r"base_model\.model\.(?:transformer\.)?"
_NAME = re.compile(rf"{_PREFIX}h\.(\d{{1,4}})\.({'|'.join(map(re.escape, _OURS))})\.lora_([AB])\.weight")
_NORMS = {"ln_1": "norm1", "ln_2": "norm2"}
_BIAS = re.compile(
    rf"{_PREFIX}(?:h\.(\d{{1,4}})\.({'|'.join(map(re.escape, {**_OURS, **_NORMS}))})|ln_f)(?:\.base_layer)?\.bias"
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
        rank: Rank of the matrices.
        alpha: The update is scaled by alpha / rank (alpha / sqrt(rank) if rank_stabilised).
        dropout: Dropout of the adapters' input in training.
        base: Path of the adapted checkpoint, as written; "" if none was.
        pairs: A (rank, in) and B (out, rank) by the name of our layer, such as "blocks.0.attn.qkv".
        rank_stabilised: whether alpha is divided by the square root of the rank.
        biases: biases that were trained, by our name; they replace the base's.
    """

    rank: int
    alpha: float
    dropout: float
    base: str
    pairs: Mapping[str, tuple[LazyTensor, LazyTensor]]
    rank_stabilised: bool = False
    biases: Mapping[str, LazyTensor] = field(default_factory=dict)

    @property
    def scaling(self) -> float:
        """The factor of the product B A."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


def is_adapter(path: Path) -> bool:
    """Return whether a path is a directory with an adapter, or its weights."""
    directory = _directory(path)
    return (directory / CONFIG).is_file() and weights_of(directory).is_file()


def weights_of(directory: Path) -> Path:
    """Return the file with an adapter's weights."""
    old = directory / OLD_WEIGHTS
    return old if old.is_file() and not (directory / WEIGHTS).is_file() else directory / WEIGHTS


def _directory(path: Path) -> Path:
    return path.parent if path.name in (WEIGHTS, OLD_WEIGHTS) else path


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
    pairs, biases = _read_weights(weights_of(directory), rank)
    return Adapter(rank, alpha, dropout, base, pairs, stabilised, biases)


def _number(file: Path, config: Mapping[str, Any], key: str, low: float, high: float) -> float:
    value = config.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise FormatError(file, f"its {key} must be a number from {low:g} to {high:g}, not {value!r}")
    return float(value)


def _read_weights(path: Path, rank: int) -> tuple[dict[str, tuple[LazyTensor, LazyTensor]], dict[str, LazyTensor]]:
    tensors = read_torch(path) if path.name == OLD_WEIGHTS else read_safetensors(path)[0]
    if not isinstance(tensors, dict) or not all(isinstance(tensor, LazyTensor) for tensor in tensors.values()):
        raise FormatError(path, "is not a state dict, as PEFT saves adapters")
    found: dict[str, dict[str, LazyTensor]] = {}
    biases: dict[str, LazyTensor] = {}
    problems, foreign = [], []
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None and (bias := _BIAS.fullmatch(name)):
            biases[_bias_name(bias)] = tensor
            continue
        if match is None:
            foreign.append(name)
            continue
        axis = 0 if match[3] == "A" else 1
        if len(tensor.shape) != 2 or tensor.shape[axis] != rank:
            problems.append(f"tensor {name} has shape {tensor.shape}, but the rank is {rank}")
        found.setdefault(f"blocks.{int(match[1])}.{_OURS[match[2]]}", {})[match[3]] = tensor
    problems += [
        f"the adapter of {name} has only its {next(iter(pair))}" for name, pair in found.items() if len(pair) < 2
    ]
    if foreign and not found:
        raise FormatError(path, f"is an adapter of another architecture than GPT-2: it has {foreign[0]}")
    problems += [f"tensor {name} belongs to no linear layer of a GPT-2" for name in foreign]
    if not found:
        problems.append("it has no tensors of an adapter")
    if problems:
        raise CheckpointMismatch(path, problems)
    return {name: (pair["A"], pair["B"]) for name, pair in found.items()}, biases


def _bias_name(match: re.Match[str]) -> str:
    if match[1] is None:
        return "final_norm.bias"
    return f"blocks.{int(match[1])}.{ {**_OURS, **_NORMS}[match[2]] }.bias"


def find_base(directory: Path, adapter: Adapter) -> Path:
    """Return the checkpoint that an adapter was trained on.

    It is the path as written, relative to the adapter or else to the working directory, or a registered model.

    Raises:
        FormatError: it is not there.
        ZooError: it is a registered model, which cannot be downloaded.
    """
    for base in (directory / adapter.base, Path(adapter.base)):
        # Path.exists raises for a name that is too long.
        if adapter.base and os.path.exists(base):  # noqa: PTH110
            return base
    name = adapter.base.removeprefix("openai-community/").removeprefix("distilbert/")  # as the Hub has them today
    if is_registered(name) and _finders:
        return _finders[0](name)
    hint = "put its path into base_model_name_or_path of adapter_config.json"
    raise FormatError(directory, f"is a LoRA adapter, but its base {adapter.base!r} is not there; {hint}")


_finders: list[Callable[[str], Path]] = []


def find_names_with(find: Callable[[str], Path]) -> None:
    """Set how the name of a registered model becomes a path: names are resolved above this layer."""
    _finders[:] = [find]


def write_adapter(directory: Path, adapter: Adapter) -> None:
    """Write an adapter into an existing directory.

    Raises:
        CannotHold: PEFT has no name for a layer.
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
