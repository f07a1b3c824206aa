"""One training step: accumulate gradients, clip them and step the optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import TrainingError
from zoo.models.gpt2.private_ops import has_fast_bfloat16
from zoo.train.step.distributed import World, exchange
from zoo.train.step.loss import IGNORED


@dataclass(frozen=True)
class StepResult:
    """The measurements of a step.

    Attributes:
        loss: Mean loss per token of the step, in nats, before the update.
        n_tokens: Number of predicted tokens, in all processes.
        grad_norm: Norm of all gradients, before clipping.
    """

    loss: float
    n_tokens: int
    grad_norm: float


def make_optimizer(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.1,
    decay: str = "matrices",
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """Return a fused AdamW (Loshchilov & Hutter, 2019) for the parameters that have requires_grad.

    Args:
        module: Module to train.
        lr: Learning rate; a schedule may change it at every step.
        weight_decay: Weight decay, relative to lr.
        decay: "matrices" excludes biases and norms, as GPT-2's own training is said to have done; "all" does as the
            book.
        betas: Decay rates of the running means of the gradient and of its square.
        eps: Added to the square root of the latter.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trained}]
    if decay == "matrices":
        groups = [
            {"params": [each for each in trained if each.dim() >= 2]},
            {"params": [each for each in trained if each.dim() < 2], "weight_decay": 0.0},
        ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, fused=True)


def autocast(dtype: str, device: torch.device | str = "cpu") -> AbstractContextManager[Any]:
    """Return the autocast context for "bfloat16" matrix products, or a null context for "float32"."""
    return torch.autocast(torch.device(device).type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()


def fast_dtype(device: torch.device | str = "cpu") -> str:
    """Return "bfloat16" if the device has instructions for bfloat16 products, otherwise "float32"."""
    kind = torch.device(device).type
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if kind != "cpu" or not has_fast_bfloat16():
        return "float32"
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bfloat16" if known.get("avx512_bf16") or known.get("amx_bf16") else "float32"


def split(windows: Tensor) -> tuple[Tensor, Tensor]:
    """Split windows of T + 1 tokens into ids and targets, each (B, T)."""
    return windows[:, :-1], windows[:, 1:]


def train_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    step: int,
    lr: float,
    clip: float | None = 1.0,
    dtype: str = "float32",
    here: World | None = None,
) -> StepResult:
    """Run one step on several batches, whose gradients are accumulated as if they were one batch.

    Every token has the same weight, however the tokens are distributed over batches and processes: the summed loss of
    each batch is divided by the number of tokens of the complete step.

    Args:
        module: A LanguageModelLoss, or the result of World.wrap for one.
        optimizer: Optimizer of its parameters.
        batches: This process's (ids, targets), each (B, T) int64. At least one, and the same number in every process.
        step: Number of the step, for error messages.
        lr: Learning rate of this step.
        clip: Largest gradient norm; larger gradients are scaled down. None disables clipping.
        dtype: "bfloat16" for autocast.
        here: The group of training processes.

    Raises:
        TrainingError: The loss or a gradient is not finite. The weights are unchanged.
    """
    here = here or World()
    (n_tokens,) = here.sum(float(sum(int((targets != IGNORED).sum()) for _, targets in batches)))
    total = 0.0
    for i, (ids, targets) in enumerate(batches):
        with exchange(module, on=i == len(batches) - 1):
            with autocast(dtype, here.device):
                loss = module(ids.to(here.device), targets.to(here.device)) / n_tokens
            loss.backward()
        total += loss.item()
    (total,) = here.sum(total)
    gradients = [each.grad for each in module.parameters() if each.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    grad_norm = (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).item()
    if not math.isfinite(total) or not math.isfinite(grad_norm):
        optimizer.zero_grad()
        what = f"loss is {total}" if not math.isfinite(total) else f"gradient norm is {grad_norm}"
        raise TrainingError(
            f"the {what} at step {step}; lower the learning rate or clip gradients, and resume an earlier checkpoint"
        )
    if clip and grad_norm > clip:  # otherwise all gradients would be multiplied by 1
        torch.nn.utils.clip_grads_with_norm_(module.parameters(), clip, norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()
    return StepResult(total, int(n_tokens), grad_norm)
