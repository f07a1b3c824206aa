"""LoRA (Hu et al., 2021): freeze the weight matrices and train a low-rank update of each.

A layer W becomes W + scaling * B A with A (rank, in), B (out, rank) and scaling = alpha / rank. B is initialised to
zero, so that training starts from the base model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.core.output import atomic_output
from zoo.core.tensors import LazyTensor
from zoo.errors import CheckpointMismatch, OptionError
from zoo.formats.adapter_files import Adapter, read_adapter, write_adapter
from zoo.models.arrays import to_numpy, to_torch
from zoo.models.gpt2.model import GPTModel

TARGETS = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
"""The linear layers of a block. All are adapted by default."""


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """The settings of LoRA.

    Attributes:
        rank: Rank of the updates, at least 1.
        alpha: The update is scaled by alpha / rank; None means twice the rank.
        dropout: Dropout probability of the update's input during training, in [0, 1).
        targets: Layers to adapt in every block, from TARGETS.
        seed: Seed of the initial values.

    Raises:
        OptionError: A value is out of range.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = TARGETS
    seed: int = 0

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise OptionError(f"the rank of LoRA must be an integer of at least 1, not {self.rank!r}")
        if self.alpha is not None and not math.isfinite(self.alpha):
            raise OptionError(f"the alpha of LoRA must be a number, not {self.alpha!r}")
        if not 0 <= self.dropout < 1:
            raise OptionError(f"the dropout of LoRA must be in [0, 1), not {self.dropout!r}")
        if not self.targets or not set(self.targets) <= set(TARGETS):
            raise OptionError(f"the targets of LoRA must be some of {', '.join(TARGETS)}, not {self.targets!r}")

    @property
    def scaling(self) -> float:
        """The factor of the updates, alpha / rank."""
        return (2 * self.rank if self.alpha is None else self.alpha) / self.rank


class LoRALinear(nn.Linear):
    """A linear layer with a low-rank update of its weight. The weight keeps its name.

    Attributes:
        lora_a: A, (rank, in).
        lora_b: B, (out, rank).
        scaling: Factor of B A.
        dropout: Dropout probability of the update's input during training.
    """

    def __init__(self, linear: nn.Linear, lora_a: Tensor, lora_b: Tensor, scaling: float, dropout: float) -> None:
        """Take over the weight and bias of a layer and freeze them."""
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.requires_grad_(False)
        self.lora_a, self.lora_b = nn.Parameter(lora_a), nn.Parameter(lora_b)
        self.scaling, self.dropout = scaling, dropout
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """Apply W + scaling * B A: (..., in) -> (..., out)."""
        y = super().forward(x)
        low = F.linear(F.dropout(x, self.dropout, self.training).to(self.lora_a.dtype), self.lora_a)  # (..., rank)
        return y + F.linear(low * self.scaling, self.lora_b).to(y.dtype)

    def merged(self) -> nn.Linear:
        """Return a plain layer with the update added to its weight, computed in at least float32."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        with torch.no_grad():
            weight = self.weight.to(wide) + self.scaling * (self.lora_b.to(wide) @ self.lora_a.to(wide))
            linear.weight = nn.Parameter(weight.to(self.weight.dtype))
        linear.bias = self.bias
        return linear.train(self.training).requires_grad_(True)


def add_lora(model: GPTModel, lora: LoRA | None = None) -> GPTModel:
    """Freeze a model and add adapters to its layers, in place. Afterwards only the adapters have requires_grad.

    Returns:
        The model.

    Raises:
        OptionError: The model already has adapters.
    """
    lora = lora or LoRA()
    if has_lora(model):
        raise OptionError("the model has LoRA adapters already; merge them first with zoo.train.step.lora.merge_lora")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(lora.seed)
    for name, linear in list(model.named_modules()):
        if name.startswith("blocks.") and name.split(".", 2)[2:] and name.split(".", 2)[2] in lora.targets:
            plain = cast("nn.Linear", linear)
            # Adapters of a half-precision model are float32, because their updates are too small for half precision.
            dtype = torch.promote_types(plain.weight.dtype, torch.float32)
            a = torch.empty(lora.rank, plain.in_features, dtype=dtype)
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)  # as in PEFT's reset_lora_parameters
            a, b = a.to(plain.weight.device), plain.weight.new_zeros(plain.out_features, lora.rank, dtype=dtype)
            model.set_submodule(name, LoRALinear(plain, a, b, lora.scaling, lora.dropout))
    return model


def has_lora(model: nn.Module) -> bool:
    """Return whether a model has adapters."""
    return any(True for _ in _adapted(model))


def merge_lora(model: GPTModel) -> GPTModel:
    """Add the adapters to the weights, in place, and return the model, which is then a plain one."""
    for name, layer in list(_adapted(model)):
        model.set_submodule(name, layer.merged())
    return model.requires_grad_(True)


def save_adapter(model: GPTModel, out: str | Path, *, base: str | Path | None = None, force: bool = False) -> None:
    """Write a model's adapters, without the model, to a directory in PEFT's format.

    Args:
        model: A model with adapters.
        out: Path of the directory, which is written atomically.
        base: Path of the base checkpoint, where `zoo convert` and `zoo.load` will look for it.
        force: Whether to replace an existing output.

    Raises:
        OptionError: The model has no adapters.
        OutputError: out exists or cannot be written.
    """
    with atomic_output(Path(out), force=force) as temporary:
        temporary.mkdir()
        write_lora(model, temporary, base=base)


def write_lora(model: GPTModel, directory: Path, *, base: str | Path | None = None) -> None:
    """Write a model's adapters into an existing directory, as a part of a checkpoint.

    Raises:
        OptionError: The model has no adapters.
        OSError: The path cannot be written, for example because the disk is full.
    """
    layers = dict(_adapted(model))
    if not layers:
        raise OptionError("the model has no LoRA adapters to save; use zoo.save to write a complete model")
    first = next(iter(layers.values()))
    pairs = {
        name: (LazyTensor.of(to_numpy(layer.lora_a)), LazyTensor.of(to_numpy(layer.lora_b)))
        for name, layer in layers.items()
    }
    rank = len(first.lora_a)
    where = str(Path(base).resolve()) if base else ""
    write_adapter(directory, Adapter(rank, first.scaling * rank, first.dropout, where, pairs))


def load_adapter(model: GPTModel, path: str | Path) -> GPTModel:
    """Load adapters from a directory, zoo's or PEFT's, into the layers of a model, in place.

    They can be trained like those of add_lora; merge_lora turns the result into a plain model.

    Returns:
        The model.

    Raises:
        OptionError: The model already has adapters.
        FormatError: The adapter is corrupt or of a kind that zoo does not support.
        CheckpointMismatch: The adapter belongs to another model.
    """
    if has_lora(model):
        raise OptionError("the model has LoRA adapters already; merge them first with zoo.train.step.lora.merge_lora")
    adapter = read_adapter(Path(path))
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    problems = [f"its {name} was trained too, and zoo trains no biases; merge it first" for name in adapter.biases]
    for name, (a, b) in adapter.pairs.items():
        if name not in layers:
            problems.append(f"the model has no layer {name}")
        elif (b.shape[0], a.shape[1]) != layers[name].weight.shape:
            there = tuple(layers[name].weight.shape)
            problems.append(
                f"the adapter of {name} has the shape {(b.shape[0], a.shape[1])}, the layer of the model {there}"
            )
    if problems:
        raise CheckpointMismatch(path, problems)
    model.requires_grad_(False)
    for name, (a, b) in adapter.pairs.items():
        plain = layers[name]
        # Copies: training the adapters must not change the mapped pages that other models share.
        lora_a, lora_b = (to_torch(tensor.load()).to(plain.weight.device, copy=True) for tensor in (a, b))
        model.set_submodule(name, LoRALinear(plain, lora_a, lora_b, adapter.scaling, adapter.dropout))
    return model


def _adapted(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, LoRALinear))
