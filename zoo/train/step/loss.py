"""Cross-entropy computed from the hidden states before the head, without storing all logits.

Each of the B x T tokens has 50,257 logits, by far the largest tensor of a training step. Here they exist for one chunk
of tokens at a time. The forward pass turns a chunk into the loss and at once into the gradients of the hidden states
and the head, as Liger's fused linear cross-entropy does (Hsu et al., 2024), so that nothing is computed twice.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.gpt2.cpu_ops import product
from zoo.models.gpt2.model import GPTModel

IGNORED = -100
"""Targets with this value are ignored, as in torch."""

_ZERO_CLASS = -1  # a target among the classes whose logits are 0

_CHUNK = (
    512  # tokens per chunk: their float32 logits take 103 MB; smaller chunks accumulate the head's gradient more often
)
_ROWS = 64  # tokens whose probabilities exist at a time: 13 MB, which fits into the cache


class LanguageModelLoss(nn.Module):
    """A model and its loss as one module, as World.wrap and torch.compile require.

    Attributes:
        model: The GPTModel.
        used: Sorted ids that the head computes, (U,) int64; None means all. The rows of all other ids must be zero, so
            that their logits are 0; they get no gradient and stay zero. The trained model has its complete vocabulary,
            but a step costs only the used ids.
    """

    def __init__(self, model: GPTModel, used: Tensor | None = None) -> None:
        super().__init__()
        self.model = model
        self.used = used

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the token losses in nats, a float32 scalar (float64 for a float64 model).

        Args:
            ids: (B, T) int64.
            targets: The token after each id, (B, T) int64; IGNORED where nothing is predicted.
        """
        if self._adds_up_in_place():
            tied = _TiedGradient()
            weight = self.model.tok_emb.weight
            embedded = _Lookup.apply(ids, weight, tied)  # type: ignore[no-untyped-call]
            hidden = self.model.hidden(ids, embedded=embedded).flatten(0, 1)
            return linear_cross_entropy(hidden, weight, targets.flatten(), tied=tied)
        hidden = self.model.hidden(ids).flatten(0, 1)
        head = self.model.tok_emb if self.model.head is None else self.model.head
        weight = cast("Tensor", head.weight)
        targets, n_zero = targets.flatten(), 0
        if self.used is not None:
            n_zero = self.model.config.vocab_size - len(self.used)
            weight = weight[self.used]
            places = torch.searchsorted(self.used, targets).clamp(max=len(self.used) - 1)
            places = torch.where(self.used[places] == targets, places, _ZERO_CLASS)
            targets = torch.where(targets == IGNORED, IGNORED, places)
        else:
            weight = weight[: self.model.config.vocab_size]  # padding rows are not tokens
        return linear_cross_entropy(hidden, weight, targets, n_zero=n_zero)

    def _adds_up_in_place(self) -> bool:
        model, weight = self.model, self.model.tok_emb.weight
        plain = self.used is None and model.head is None and len(weight) == model.config.vocab_size
        return plain and weight.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class _TiedGradient:
    """Carries the gradient of a tied head to the embedding, which adds its own gradient to it.

    Otherwise, two gradients of that size would be allocated and added, one of them zero except for a few rows.
    """

    value: Tensor | None = None


class _Lookup(torch.autograd.Function):
    """Look up rows of the embedding. It is the last operation of the backward pass."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, tied: _TiedGradient) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.tied = tied
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, None]:
        (ids,), total = ctx.saved_tensors, ctx.tied.value
        ctx.tied.value = None
        rows = grad_outputs[0].flatten(0, -2).to(total.dtype)
        return None, total.index_add_(0, ids.flatten(), rows), None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, n_zero: int = 0, tied: _TiedGradient | None = None
) -> Tensor:
    """Return the sum of the cross-entropies of `hidden @ weight.T` and the targets, in nats.

    Under autocast, the matrix products have autocast's dtype; everything else is at least float32.

    Args:
        hidden: (N, C).
        weight: (V, C).
        targets: (N,) int64, below V, or IGNORED; -1 for a class whose logit is 0.
        n_zero: Number of such classes in addition to the V.
        tied: Receives the gradient of the weight instead of the weight itself.
    """
    return cast("Tensor", _LinearCrossEntropy.apply(hidden, weight, targets, n_zero, tied))  # type: ignore[no-untyped-call]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, n_zero: int, tied: _TiedGradient | None
    ) -> Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        wide = torch.promote_types(weight.dtype, torch.float32)
        narrow = weight.to(dtype)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight: Tensor | None = None  # not zeros plus the first chunk: it is as large as the head
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(hidden), _CHUNK):
                part = slice(start, start + _CHUNK)
                states = hidden[part].to(dtype)
                gradient = product(states, narrow)  # first the logits, then their gradient
                total += _to_gradient(gradient, targets[part], n_zero, wide)
                if grad_hidden is not None:
                    grad_hidden[part] = product(gradient, narrow.T)
                if not wants_weight:
                    continue
                if grad_weight is None:
                    grad_weight = product(gradient.T, states.T).to(weight.dtype)
                elif dtype == grad_weight.dtype:
                    grad_weight.addmm_(gradient.T, states)
                else:
                    grad_weight += product(gradient.T, states.T)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.tied = tied
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        (scale,) = grad_outputs
        # In place: they are not used elsewhere, and one is as large as the head.
        for gradient in (grad_hidden, grad_weight):
            if gradient is not None:
                gradient.mul_(scale)
        if ctx.tied is not None:
            ctx.tied.value, grad_weight = grad_weight, None
        return grad_hidden, grad_weight, None, None, None


def _to_gradient(logits: Tensor, targets: Tensor, n_zero: int, wide: torch.dtype) -> Tensor:
    """Turn logits, (N, V), into the gradient of the loss with respect to them, in place, and return the loss."""
    total = torch.zeros((), dtype=wide, device=logits.device)
    for start in range(0, len(logits), _ROWS):
        rows, its_targets = logits[start : start + _ROWS], targets[start : start + _ROWS]
        counts, is_row = its_targets != IGNORED, (its_targets >= 0).to(wide)
        its_targets = its_targets.clamp(min=0)[:, None]
        # Softmax reads each row once, while it is in the cache. The largest probability is never 0, so its logarithm
        # gives the normaliser without computing the exponentials again.
        probs = torch.softmax(rows, -1, dtype=wide)
        largest, place = rows.max(-1, keepdim=True)
        normaliser = largest.to(wide) - probs.gather(-1, place).log()  # (N, 1)
        if n_zero:
            whole = torch.logaddexp(normaliser, normaliser.new_tensor(math.log(n_zero)))
            probs *= (normaliser - whole).exp()
            normaliser = whole
        losses = (normaliser - rows.gather(-1, its_targets) * is_row[:, None])[:, 0] * counts
        probs.scatter_add_(-1, its_targets, -is_row[:, None])
        if not bool(counts.all()):
            probs *= counts[:, None]
        rows.copy_(probs)
        total += losses.sum()
    return total
