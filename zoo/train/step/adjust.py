"""Adjust a model before it is trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.models.gpt2.cpu_ops import draw_as_torch, draw_quickly
from zoo.models.gpt2.model import Attention, Block, GPTModel
from zoo.train.data.tokens import Tokens
from zoo.train.settings import TrainConfig


def adjust(model: GPTModel, config: TrainConfig, train: Tokens) -> Tensor | None:
    """Apply a run's settings to a model.

    Returns:
        The ids that occur in the text, (U,) int64 on the model's device, if the head is to compute only those.
    """
    model.set_draw(draw_as_torch if config.order == "book" else draw_quickly)
    if config.dropout is not None:
        set_dropout(model, config.dropout)
    if config.recompute:
        checkpoint_activations(model)
    if not config.only_used_ids:
        return None
    used = torch.from_numpy(np.unique(train).astype(np.int64)).to(model.tok_emb.weight.device)
    zero_rows(model, used)
    return used


def set_dropout(model: GPTModel, dropout: float) -> None:
    """Set the dropout probability of a model and of its config."""
    model.config = model.config.replace(dropout=dropout)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        elif isinstance(module, Attention):
            module.dropout = dropout


def checkpoint_activations(model: GPTModel) -> None:
    """Store only the input of each block for the backward pass and recompute its activations there."""
    for block in model.modules():
        if isinstance(block, Block):
            block.forward = _Recomputed(block.forward)  # type: ignore[method-assign, assignment]


class _Recomputed:
    def __init__(self, forward: Any) -> None:
        self._forward = forward

    def __call__(self, *arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*arguments)
        return checkpoint(self._forward, *arguments, use_reentrant=False)


def zero_rows(model: GPTModel, used: Tensor) -> None:
    """Set the rows of all unused ids in the embedding and the head to zero, as LanguageModelLoss.used requires."""
    kept = torch.zeros(model.config.vocab_rows, dtype=torch.bool)
    kept[used] = True
    with torch.no_grad():
        for layer in (model.tok_emb, model.head):
            if layer is not None:
                layer.weight[~kept] = 0.0
