"""One step of training: gradients of some windows of tokens, clipped, and the optimizer's step."""

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
    """What a step measured.

    Attributes:
        loss: mean over the step's tokens, in nats, before the step.
        n_tokens: that were predicted, in all processes.
        grad_norm: of all gradients together, before clipping.
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
    """AdamW (Loshchilov & Hutter, 2019), fused, over the parameters that have requires_grad.

    Args:
        module: whose parameters are trained.
        lr: learning rate, which a schedule may change at every step.
        weight_decay: as a fraction of lr.
        decay: "matrices" spares biases and norms, as GPT-2's own training is said to do; "all", as in the book.
        betas: of the running means of the gradient and of its square.
        eps: added to the root of the latter.
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
    """The context to compute in: bfloat16 products where dtype is "bfloat16", as the weights are for "float32"."""
    return torch.autocast(torch.device(device).type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()


def fast_dtype(device: torch.device | str = "cpu") -> str:
    """Return "bfloat16" where this device has instructions for its products, "float32" elsewhere."""
    kind = torch.device(device).type
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if kind != "cpu" or not has_fast_bfloat16():
        return "float32"
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bfloat16" if known.get("avx512_bf16") or known.get("amx_bf16") else "float32"


def split(windows: Tensor) -> tuple[Tensor, Tensor]:
    """Windows of T + 1 tokens as what is read and what is to be predicted, each (B, T)."""
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
    """Do one step on several batches, whose gradients are added up as if they were one batch.

    Every token counts the same, however the tokens lie in batches and processes: each batch's summed loss is divided by
    the tokens of the whole step.

    Args:
        module: a LanguageModelLoss, or what World.wrap made of one.
        optimizer: of its parameters.
        batches: this process's (ids, targets), each (B, T) int64; at least one, and as many in every process.
        step: its number, for messages.
        lr: learning rate of this step.
        clip: largest norm of the gradients; larger ones are scaled down. None leaves them.
        dtype: "bfloat16" for autocast.
        here: the processes that train together.

    Raises:
        TrainingError: the loss or a gradient is not finite; the weights are as they were.
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
        what = f"loss is {total}" if not math.isfinite(total) else f"norm of the gradients is {grad_norm}"
        raise TrainingError(
            f"the {what} at step {step}; lower the learning rate, or clip gradients, and go on from before"
        )
    if clip and grad_norm > clip:  # else they would all be multiplied by 1
        torch.nn.utils.clip_grads_with_norm_(module.parameters(), clip, norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()
    return StepResult(total, int(n_tokens), grad_norm)
