"""Initialise weights from a separate generator, so that torch's global seed is not used."""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import nn

from zoo.errors import OptionError
from zoo.models.gpt2.config import GPTConfig
from zoo.models.gpt2.model import Block, GPTModel
from zoo.models.registry import get_config

Init = Literal["gpt2", "book"]


def create(
    config: GPTConfig | str, *, seed: int | torch.Generator = 0, init: Init = "gpt2", dtype: torch.dtype | None = None
) -> GPTModel:
    """Create a model with random weights, in training mode. The same seed gives the same bits.

    Args:
        config: An architecture, or the name of a registered one.
        seed: Seed of the generator that draws the weights, or the generator itself, whose state then advances.
        init: "gpt2": normal with standard deviation 0.02, divided by sqrt(2 L) for layers that write to the residual
            stream (section 2.3 of the paper). "book": torch's default initialisation in the order in which "Build a
            Large Language Model (From Scratch)" creates its layers.
        dtype: Dtype of the weights; None means float32.

    Raises:
        UnknownName: No config is registered under this name.
        OptionError: init is neither "gpt2" nor "book".
    """
    fills = {"gpt2": _fill_gpt2, "book": _fill_book}
    if init not in fills:
        raise OptionError(f"init must be one of {', '.join(fills)}, not {init!r}")
    with torch.device("meta"):  # without values, so that torch's global generator is not used
        model = GPTModel(get_config(config) if isinstance(config, str) else config)
    model.to_empty(device="cpu")
    with torch.no_grad():
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        fills[init](model, generator)
    return model.to(dtype) if dtype else model


def _fill_gpt2(model: GPTModel, generator: torch.Generator) -> None:
    residual = 0.02 / math.sqrt(2 * model.config.n_layers)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif "norm" in name:
            nn.init.ones_(parameter)
        else:
            std = residual if name.endswith(("attn.out.weight", "mlp.down.weight")) else 0.02
            nn.init.normal_(parameter, std=std, generator=generator)


def _fill_book(model: GPTModel, generator: torch.Generator) -> None:
    """Draw what the book's modules draw, in their order: query, key and value are three layers there, and the head
    is drawn last, even if a tied one replaces it.
    """
    config = model.config
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.constant_(parameter, float(name.endswith("weight")))
    nn.init.normal_(model.tok_emb.weight, generator=generator)
    nn.init.normal_(model.pos_emb.weight, generator=generator)
    for block in cast("list[Block]", model.blocks):
        qkv = block.attn.qkv
        biases = qkv.bias.chunk(3) if config.qkv_bias else (None, None, None)
        for weight, bias in zip(qkv.weight.chunk(3), biases, strict=True):
            _draw_linear(weight, bias, generator)
        for linear in (block.attn.out, block.mlp.up, block.mlp.down):
            _draw_linear(linear.weight, linear.bias, generator)
    head = torch.empty(config.vocab_rows, config.width) if model.head is None else model.head.weight
    _draw_linear(head, None, generator)


def _draw_linear(weight: torch.Tensor, bias: torch.Tensor | None, generator: torch.Generator) -> None:
    """Initialise a linear layer as torch.nn.Linear.reset_parameters does."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
    if bias is not None:
        bound = 1 / math.sqrt(weight.shape[1])
        nn.init.uniform_(bias, -bound, bound, generator=generator)
