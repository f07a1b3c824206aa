"""LoRA (Hu et al., 2021): train a small low-rank product beside every large matrix, and leave the matrix alone.

A layer W becomes W + scaling * B A with A (rank, in), B (out, rank), scaling = alpha / rank. B starts at zero, so that
training starts from the base.
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
from zoo.models.arrays import to_numpy, to_torch
from zoo.models.gpt2.model import GPTModel

TARGETS = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
"""The linear layers of a block, all of which are adapted unless fewer are named."""


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """How a model is adapted.

    Attributes:
        rank: of the products, at least 1.
        alpha: they count alpha / rank; None means twice the rank.
        dropout: of their input, in training, in [0, 1).
        targets: layers of every block, of TARGETS.
        seed: of the starting values.

    Raises:
        OptionError: a value is outside its range.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = TARGETS
    seed: int = 0

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise OptionError(f"the rank of LoRA must be a whole number of at least 1, not {self.rank!r}")
        if self.alpha is not None and not math.isfinite(self.alpha):
            raise OptionError(f"the alpha of LoRA must be a number, not {self.alpha!r}")
        if not 0 <= self.dropout < 1:
            raise OptionError(f"the dropout of LoRA must be in [0, 1), not {self.dropout!r}")
        if not self.targets or not set(self.targets) <= set(TARGETS):
            raise OptionError(f"the targets of LoRA must be some of {', '.join(TARGETS)}, not {self.targets!r}")

    @property
    def scaling(self) -> float:
        """What the products are multiplied with."""
        return (2 * self.rank if self.alpha is None else self.alpha) / self.rank


class LoRALinear(nn.Linear):
    """A linear layer with a low-rank product beside its weight, which keeps its name.

    Attributes:
        lora_a: A, (rank, in).
        lora_b: B, (out, rank).
        scaling: of B A.
        dropout: of the product's input, in training.
    """

    def __init__(self, linear: nn.Linear, lora_a: Tensor, lora_b: Tensor, scaling: float, dropout: float) -> None:
        """Take over the weight and bias of a layer; they are no longer trained."""
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.requires_grad_(False)
        self.lora_a, self.lora_b = nn.Parameter(lora_a), nn.Parameter(lora_b)
        self.scaling, self.dropout = scaling, dropout
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """Apply W and B A: (..., in) -> (..., out)."""
        y = super().forward(x)
        low = F.linear(F.dropout(x, self.dropout, self.training).to(self.lora_a.dtype), self.lora_a)  # (..., rank)
        return y + F.linear(low * self.scaling, self.lora_b).to(y.dtype)

    def merged(self) -> nn.Linear:
        """Return a plain layer with the product added to the weight, computed in float32 at least."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        with torch.no_grad():
            weight = self.weight.to(wide) + self.scaling * (self.lora_b.to(wide) @ self.lora_a.to(wide))
            linear.weight = nn.Parameter(weight.to(self.weight.dtype))
        linear.bias = self.bias
        return linear.train(self.training).requires_grad_(True)


def add_lora(model: GPTModel, lora: LoRA | None = None) -> GPTModel:
    """Freeze a model and put adapters beside its layers, in place; only they have requires_grad afterwards.

    Returns:
        the model.

    Raises:
        OptionError: it has adapters already.
    """
    lora = lora or LoRA()
    if has_lora(model):
        raise OptionError("the model has LoRA adapters already; merge them first with zoo.train.step.lora.merge_lora")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(lora.seed)
    for name, linear in list(model.named_modules()):
        if name.startswith("blocks.") and name.split(".", 2)[2:] and name.split(".", 2)[2] in lora.targets:
            plain = cast("nn.Linear", linear)
            # Adapters of a half-precision model are float32: their steps are too small for half precision.
            dtype = torch.promote_types(plain.weight.dtype, torch.float32)
            a = torch.empty(lora.rank, plain.in_features, dtype=dtype)
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)  # as PEFT's reset_lora_parameters
            a, b = a.to(plain.weight.device), plain.weight.new_zeros(plain.out_features, lora.rank, dtype=dtype)
            model.set_submodule(name, LoRALinear(plain, a, b, lora.scaling, lora.dropout))
    return model


def has_lora(model: nn.Module) -> bool:
    """Whether a model has adapters."""
    return any(True for _ in _adapted(model))


def merge_lora(model: GPTModel) -> GPTModel:
    """Add the adapters to the weights, in place, and return the model: a plain one that can be trained and saved."""
    for name, layer in list(_adapted(model)):
        model.set_submodule(name, layer.merged())
    return model.requires_grad_(True)


def save_adapter(model: GPTModel, out: str | Path, *, base: str | Path | None = None, force: bool = False) -> None:
    """Write a model's adapters, without the model, to a directory that PEFT can read too.

    Args:
        model: with adapters.
        out: the directory; it appears only when it is whole.
        base: path of the checkpoint that they adapt, so that `zoo convert` and `zoo.load` find it.
        force: whether an existing output may be replaced.

    Raises:
        OptionError: the model has no adapters.
        OutputError: out exists or cannot be written.
    """
    with atomic_output(Path(out), force=force) as temporary:
        temporary.mkdir()
        write_lora(model, temporary, base=base)


def write_lora(model: GPTModel, directory: Path, *, base: str | Path | None = None) -> None:
    """Write a model's adapters into a directory that exists, as one part of a checkpoint.

    Raises:
        OptionError: the model has no adapters.
        OSError: the disk is full, or the path cannot be written.
    """
    from zoo.converters.shared.adapter_files import Adapter, write_adapter

    layers = dict(_adapted(model))
    if not layers:
        raise OptionError("the model has no LoRA adapters to save; zoo.save writes a whole model")
    first = next(iter(layers.values()))
    pairs = {
        name: (LazyTensor.of(to_numpy(layer.lora_a)), LazyTensor.of(to_numpy(layer.lora_b)))
        for name, layer in layers.items()
    }
    rank = len(first.lora_a)
    where = str(Path(base).resolve()) if base else ""
    write_adapter(directory, Adapter(rank, first.scaling * rank, first.dropout, where, pairs))


def load_adapter(model: GPTModel, path: str | Path) -> GPTModel:
    """Put the adapters of a directory, zoo's or PEFT's, beside the layers of a model, in place.

    They are trained on as add_lora's are; merge_lora makes a plain model of it.

    Returns:
        the model.

    Raises:
        OptionError: the model has adapters already.
        FormatError: the adapter is damaged, or a kind that zoo does not compute.
        CheckpointMismatch: the adapter is for another model.
    """
    from zoo.converters.shared.adapter_files import read_adapter

    if has_lora(model):
        raise OptionError("the model has LoRA adapters already; merge them first with zoo.train.step.lora.merge_lora")
    adapter = read_adapter(Path(path))
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    problems = []
    for name, (a, b) in adapter.pairs.items():
        if name not in layers:
            problems.append(f"the model has no layer {name}")
        elif (b.shape[0], a.shape[1]) != layers[name].weight.shape:
            there = tuple(layers[name].weight.shape)
            problems.append(f"the adapter of {name} is for {(b.shape[0], a.shape[1])}, the model has {there}")
    if problems:
        raise CheckpointMismatch(path, problems)
    model.requires_grad_(False)
    for name, (a, b) in adapter.pairs.items():
        plain = layers[name]
        # Copies: trained adapters must not change the mapped file's pages for other models that share them.
        lora_a, lora_b = (to_torch(tensor.load()).to(plain.weight.device, copy=True) for tensor in (a, b))
        model.set_submodule(name, LoRALinear(plain, lora_a, lora_b, adapter.scaling, adapter.dropout))
    return model


def _adapted(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, LoRALinear))
