"""The private operators of torch that training uses, each behind a probe that runs once and with a public fallback."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor


def _works(probe: Callable[[], object]) -> bool:
    """Whether this torch has an operator on this processor."""
    try:
        with torch.no_grad():
            return probe() is not False
    except (AttributeError, RuntimeError, TypeError):
        return False


def _mkldnn() -> Any:
    return torch.ops.mkldnn


@functools.cache
def has_fast_bfloat16() -> bool:
    """Whether torch multiplies bfloat16 on this CPU with oneDNN; without it, bfloat16 is far slower than float32."""
    return _works(lambda: _mkldnn()._is_mkldnn_bf16_supported())


@functools.cache
def has_onednn_linear() -> bool:
    """Whether `onednn_linear` can be called."""
    return _works(lambda: onednn_linear(torch.zeros(2, 3), torch.zeros(5, 3), None))


def onednn_linear(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Return a @ b.T + bias from oneDNN: (..., K), (M, K), (M,) -> (..., M), float32 on the CPU."""
    return cast("Tensor", _mkldnn()._linear_pointwise(a, b, bias, "none", [], ""))


@functools.cache
def _has_softmax_backward() -> bool:
    return _works(lambda: torch._softmax_backward_data(torch.zeros(1, 2), torch.zeros(1, 2), -1, torch.float32))


def softmax_backward(grad: Tensor, probs: Tensor) -> Tensor:
    """Return the gradient of softmax's input from that of its output, both (..., N)."""
    if _has_softmax_backward():
        return torch._softmax_backward_data(grad, probs, -1, probs.dtype)
    return (grad - (grad * probs).sum(-1, keepdim=True)) * probs


@functools.cache
def _has_gelu_backward() -> bool:
    return _works(lambda: torch.ops.aten.gelu_backward(torch.zeros(2), torch.zeros(2), approximate="tanh"))


def gelu_backward(grad: Tensor, x: Tensor, approximate: str) -> Tensor:
    """Return the gradient of F.gelu's input x from that of its output, of the same shape."""
    if _has_gelu_backward():
        return cast("Tensor", torch.ops.aten.gelu_backward(grad, x, approximate=approximate))
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (result,) = torch.autograd.grad(F.gelu(x, approximate=approximate), x, grad)
    return result
