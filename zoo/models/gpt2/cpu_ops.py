"""Training operations for the CPU that compute torch's functions at lower cost.

Dropout draws 16 bits an element and keeps 8; attention with dropout goes through the queries in blocks, and keeps no
scores; each product goes to the library that is fastest on this processor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.models.gpt2.private_ops import (
    gelu_backward,
    has_fast_bfloat16,
    has_onednn_linear,
    onednn_linear,
    softmax_backward,
)

_BLOCK = 128  # queries whose scores exist at a time

Draw = Callable[[tuple[int, ...], float], tuple[Tensor, float]]
"""Maps a shape and a probability to the mask of kept elements, uint8 0 or 1, and the fraction that is kept, in (0,
1].
"""


def draw_as_torch(shape: tuple[int, ...], p: float) -> tuple[Tensor, float]:
    """Draw the mask that F.dropout draws: 64 bits per element from torch's generator, sequentially and slowly."""
    return torch.empty(shape, dtype=torch.uint8).bernoulli_(1 - p), 1 - p


def draw_quickly(shape: tuple[int, ...], p: float) -> tuple[Tensor, float]:
    """Draw 16 bits per element from torch's generator; p is rounded to a multiple of 2**-16."""
    n, dropped = math.prod(shape), round(p * 2**16)
    words = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = words.view(torch.int16)[:n].ge_(dropped - 2**15) if dropped < 2**16 else torch.zeros(n)
    return kept.to(torch.uint8).view(shape), 1 - dropped / 2**16


def dropout(x: Tensor, p: float, draw: Draw) -> Tensor:
    """F.dropout in training mode, with masks from `draw` if x is on the CPU; any shape, floating point."""
    if p == 0 or not _ours(x):
        return F.dropout(x, p)
    return cast("Tensor", _Dropout.apply(x, p, draw))  # type: ignore[no-untyped-call]


def causal_attention(qkv: Tensor, n_heads: int, p: float, draw: Draw) -> Tensor:
    """Causal attention of all heads, with dropout of the attention probabilities.

    Args:
        qkv: Queries, keys and values of all heads, concatenated, (B, T, 3C), floating point.
        n_heads: H; the head size is D = C / H.
        p: Dropout probability; 0 for none.
        draw: Draws the dropout masks on the CPU: for all (B, H, T, T) at once if it is draw_as_torch, otherwise block
            by block.

    Returns:
        The outputs of the heads, (B, T, C).
    """
    is_trained_bfloat16 = qkv.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if is_trained_bfloat16 and _ours(qkv) and not has_fast_bfloat16():
        with torch.autocast("cpu", enabled=False):
            return causal_attention(qkv.float(), n_heads, p, draw).to(qkv.dtype)
    if (p or is_trained_bfloat16) and _ours(qkv):
        return cast("Tensor", _CausalAttention.apply(qkv, n_heads, p, draw))  # type: ignore[no-untyped-call]
    b, t, c = qkv.shape
    q, k, v = qkv.view(b, t, 3, n_heads, -1).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
    y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
    return y.transpose(1, 2).reshape(b, t, c // 3)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: str = "") -> Tensor:
    """F.linear of x, or of F.gelu(x).

    Where gradients are wanted on the CPU, all three products are those of `product`, and neither GELU's output nor a
    bfloat16 copy of the weight is kept for the backward pass.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,) or None.
        gelu: The `approximate` argument of F.gelu, "none" or "tanh"; "" for no GELU.

        The model.
        (..., out), in autocast's dtype if autocast is enabled.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if _ours(x) and _is_known(x, dtype) and _is_known(weight, dtype) and _gains(x, dtype):
        return cast("Tensor", _Linear.apply(x, weight, bias, gelu, dtype))  # type: ignore[no-untyped-call]
    return F.linear(F.gelu(x, approximate=gelu) if gelu else x, weight, bias)


def _is_known(x: Tensor, dtype: torch.dtype) -> bool:
    return dtype in (torch.float32, torch.bfloat16) and x.dtype in (torch.float32, dtype) and x.numel() > 0


def _gains(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether `product` has anything to gain: in training, and for several rows of bfloat16 on a CPU without it."""
    if torch.is_grad_enabled():
        return True
    return dtype == torch.bfloat16 and not has_fast_bfloat16() and x.numel() >= 4 * x.shape[-1]


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a @ b.T + bias, computed in the fastest way on this CPU: (..., K), (M, K), (M,) -> (..., M).

    The choice depends on the instruction set alone, so that a resumed run repeats the same rounding.
    """
    if a.device.type == "cpu" and a.numel():
        if a.dtype == torch.bfloat16 and not has_fast_bfloat16():
            return product(a.float(), b.float(), None if bias is None else bias.float()).to(a.dtype)
        if a.dtype == torch.float32 and _is_faster_in_onednn(b) and has_onednn_linear():
            return onednn_linear(a, b, bias)
    return F.linear(a, b, bias)


def _is_faster_in_onednn(b: Tensor) -> bool:
    """Whether oneDNN beats torch's own float32 product with b.T; the measurements are in docs/decisions/010."""
    capability = torch.backends.cpu.get_cpu_capability()
    return capability == "AVX512" or (capability == "AVX2" and b.is_contiguous())


def _ours(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, gelu: str, dtype: torch.dtype) -> Tensor:
        ctx.gelu, ctx.dtype, ctx.x_dtype = gelu, dtype, x.dtype
        with torch.autocast("cpu", enabled=False):
            x = x.to(dtype)
            ctx.save_for_backward(x, weight)
            active = F.gelu(x, approximate=gelu) if gelu else x
            return product(active, weight.to(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        g, x_rows = grad_outputs[0].flatten(0, -2), x.flatten(0, -2)  # (N, out), (N, in)
        grad_x = grad_weight = grad_bias = None
        if wants_weight:
            active = F.gelu(x_rows, approximate=ctx.gelu) if ctx.gelu else x_rows
            grad_weight = product(g.T, active.T).to(weight.dtype)
        if wants_bias:
            grad_bias = g.sum(0, dtype=weight.dtype)
        if wants_x:
            grad_x = product(g, weight.to(ctx.dtype).T).view(x.shape)
            if ctx.gelu:
                grad_x = gelu_backward(grad_x, x, ctx.gelu)
            grad_x = grad_x.to(ctx.x_dtype)
        return grad_x, grad_weight, grad_bias, None, None


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, draw: Draw) -> Tensor:
        kept, ctx.share = draw(tuple(x.shape), p)
        ctx.save_for_backward(kept)
        return _factors(kept, ctx.share, x.dtype).mul_(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return _factors(kept, ctx.share, grad_outputs[0].dtype).mul_(grad_outputs[0]), None, None


def _factors(kept: Tensor, share: float, dtype: torch.dtype) -> Tensor:
    """Return the factors of dropout: 0 or 1 / share."""
    return kept.to(dtype).div_(share) if share else kept.to(dtype)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, n_heads: int, p: float, draw: Draw) -> Tensor:
        b, t, c = qkv.shape
        # (3, G, T, D), G = B H; a copy, so that the queries can be scaled in place.
        parts = torch.empty(3, b * n_heads, t, c // 3 // n_heads, dtype=qkv.dtype)
        parts.view(3, b, n_heads, t, -1).copy_(qkv.view(b, t, 3, n_heads, -1).permute(2, 0, 3, 1, 4))
        q, k, v = parts
        q.mul_(q.shape[-1] ** -0.5)
        whole = draw((b * n_heads, t, t), p) if p and draw is draw_as_torch else None
        kepts, y = [], torch.empty_like(q)
        with torch.autocast("cpu", enabled=False):
            for rows, end in _blocks(t):
                probs = _probabilities(q, k, rows)
                if p:
                    kept, ctx.share = draw((len(q), end - rows.start, end), p) if whole is None else whole
                    kept = kept if whole is None else kept[:, rows, :end]
                    probs.mul_(_factors(kept, ctx.share, q.dtype))
                    kepts.append(kept)
                y[:, rows] = probs @ v[:, :end]
        ctx.save_for_backward(parts, *kepts)
        ctx.n_heads = n_heads
        return y.view(b, n_heads, t, -1).transpose(1, 2).reshape(b, t, c // 3)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        parts, *kepts = ctx.saved_tensors
        q, k, v = parts
        b, t, c = grad_outputs[0].shape
        grad_y = grad_outputs[0].view(b, t, ctx.n_heads, -1).transpose(1, 2).reshape(q.shape)
        # Gradients of keys and values are summed over blocks, in at least float32.
        grads = torch.zeros(parts.shape, dtype=torch.promote_types(q.dtype, torch.float32))
        grad_q, grad_k, grad_v = grads
        for i, (rows, end) in enumerate(_blocks(t)):
            probs, given = _probabilities(q, k, rows), grad_y[:, rows]
            grad_probs, dropped = given @ v[:, :end].mT, probs
            if kepts:
                factors = _factors(kepts[i], ctx.share, q.dtype)
                grad_probs.mul_(factors)
                dropped = factors.mul_(probs)
            grad_v[:, :end] += dropped.mT @ given
            grad_scores = softmax_backward(grad_probs, probs)
            grad_q[:, rows] = grad_scores @ k[:, :end]
            grad_k[:, :end] += grad_scores.mT @ q[:, rows]
        grad_q.mul_(q.shape[-1] ** -0.5)
        grads = grads.to(q.dtype)
        grad = torch.empty(b, t, 3 * c, dtype=q.dtype)
        grad.view(b, t, 3, ctx.n_heads, -1).copy_(grads.view(3, b, ctx.n_heads, t, -1).permute(1, 3, 0, 2, 4))
        return grad, None, None, None


def _blocks(t: int) -> list[tuple[slice, int]]:
    """Return the query rows of each block and the number of keys that its last row attends to."""
    return [(slice(start, min(start + _BLOCK, t)), min(start + _BLOCK, t)) for start in range(0, t, _BLOCK)]


def _probabilities(q: Tensor, k: Tensor, rows: slice) -> Tensor:
    """Softmax of a block's scores with a causal mask: (G, T, D) of scaled queries -> (G, rows, end)."""
    n = rows.stop - rows.start
    scores = q[:, rows] @ k[:, : rows.stop].mT
    scores[:, :, rows] += torch.full((n, n), -math.inf, dtype=q.dtype).triu_(1)
    return torch.softmax(scores, -1)
