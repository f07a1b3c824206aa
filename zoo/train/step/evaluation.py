"""The loss of a model on text that it may not have seen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.errors import OptionError
from zoo.models.gpt2.model import GPTModel
from zoo.train.data.corpus import check_ids
from zoo.train.data.documents import find_texts, read_documents
from zoo.train.data.tokens import Tokens, encode_documents, open_tokens
from zoo.train.step.distributed import World
from zoo.train.step.loss import IGNORED, LanguageModelLoss
from zoo.train.step.optimization import autocast


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts.

    Attributes:
        loss: mean over tokens, in nats.
        n_tokens: that were predicted.
        n_bytes: of UTF-8 that these tokens are; 0 if nobody counted.
    """

    loss: float
    n_tokens: int
    n_bytes: int = 0

    @property
    def perplexity(self) -> float:
        """exp(loss): as unsure as among so many equally probable tokens."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """What compares models whose tokens differ; None without a number of bytes."""
        return self.loss * self.n_tokens / self.n_bytes / math.log(2) if self.n_bytes else None


def evaluate(
    module: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    *,
    dtype: str = "float32",
    device: Any = "cpu",
    here: World | None = None,
) -> Evaluation:
    """Compute the mean loss over batches, without dropout; the module's mode is left as it was.

    Args:
        module: a LanguageModelLoss, or what World.wrap made of one.
        batches: (ids, targets), each (B, T) int64.
        dtype: "bfloat16" for autocast.
        device: that the module is on.
        here: the processes that share out the batches; all must call it, with the same batches.
    """
    here = here or World()
    was_training = module.training
    module.eval()
    total, n = 0.0, 0
    try:
        with torch.no_grad(), autocast(dtype, device):
            for ids, targets in _share(batches, here):
                total += module(ids.to(device), targets.to(device)).item()
                n += int((targets != IGNORED).sum())
    finally:
        module.train(was_training)
    total, n_all = here.sum(total, n)
    return Evaluation(total / n_all if n_all else math.nan, int(n_all))


def _share(batches: Iterator[tuple[Tensor, Tensor]], here: World) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one process's batches; where they do not come out even, the last counts nothing: all must do the same."""
    while group := list(islice(batches, here.size)):
        ids, targets = group[min(here.rank, len(group) - 1)]
        yield ids, targets if here.rank < len(group) else torch.full_like(targets, IGNORED)


def cover(
    tokens: Tokens, context: int, stride: int | None = None, *, batch_size: int = 4, limit: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut a token stream into batches that predict each token but the first exactly once.

    Args:
        tokens: the stream, (N,).
        context: longest window, T.
        stride: tokens that each window but the first predicts; a smaller one gives each more context, and costs more
            passes. None means context.
        batch_size: windows in a batch; the last window, which may be shorter, comes alone.
        limit: of batches; 0 means all.

    Yields:
        (ids, targets), each (B, T) int64; targets that an earlier window predicted are IGNORED.
    """
    stride = min(stride or context, context)
    starts = range(0, max(1, len(tokens) - 1 - (context - stride)), stride)
    whole = [start for start in starts if start + context < len(tokens)]
    rest = [start for start in starts if start + context >= len(tokens)]
    groups: list[Sequence[int]] = [whole[i : i + batch_size] for i in range(0, len(whole), batch_size)]
    groups += [[start] for start in rest]
    for group in groups[: limit or None]:
        width = min(context, len(tokens) - 1 - group[0])
        places = np.asarray(group)[:, None] + np.arange(width + 1)
        windows = torch.from_numpy(tokens[places].astype(np.int64))
        targets = windows[:, 1:].clone()
        for row, start in zip(targets, group, strict=True):
            if start:
                row[: context - stride] = IGNORED
        yield windows[:, :-1], targets


def evaluate_texts(
    model: GPTModel,
    texts: Sequence[str],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int = 4,
    field: str = "text",
    dtype: str = "float32",
) -> Evaluation:
    """Evaluate a model on texts, with the bytes counted; see cover for context and stride.

    Args:
        model: any GPT-2.
        texts: files, directories, patterns, "-" for stdin, or .bin files of tokens (whose bytes nobody counts).
        context: tokens of a window; None means the model's.
        stride: tokens predicted in each window.
        batch_size: windows computed at once.
        field: of the objects of .jsonl files.
        dtype: "bfloat16" for autocast.

    Raises:
        FormatError: a text cannot be read.
        OptionError: there are fewer than two tokens, or one that the model does not have; or a number is out of range.
    """
    longest = model.config.context_length
    _check_window(longest, context=context, stride=stride, batch_size=batch_size)
    total, n, n_bytes = 0.0, 0, 0
    loss = LanguageModelLoss(model)
    device = next(model.parameters()).device
    for path in find_texts(texts):
        if path.suffix == ".bin":
            tokens, size = open_tokens(path), 0
        else:
            documents = list(read_documents(path, field=field))
            parts = list(encode_documents(documents, model.tokenizer))
            tokens, size = np.concatenate(parts or [np.zeros(0, np.uint16)]), sum(len(d.encode()) for d in documents)
        if len(tokens) < 2:
            raise OptionError(f"{path} has fewer than two tokens, so that there is nothing to predict; give more text")
        check_ids(tokens, model.config.vocab_size, path)
        batches = cover(tokens, context or longest, stride, batch_size=batch_size)
        found = evaluate(loss, batches, dtype=dtype, device=device)
        total, n, n_bytes = total + found.loss * found.n_tokens, n + found.n_tokens, n_bytes + size
    return Evaluation(total / n, n, n_bytes)


def _check_window(longest: int, **numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise OptionError(f"must be at least 1, not {value}", option=name)
    context = numbers["context"]
    if context is not None and context > longest:
        raise OptionError(f"of {context} does not fit the model's {longest}; give at most that", option="context")
