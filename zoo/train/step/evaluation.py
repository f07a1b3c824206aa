"""Evaluate the loss of a model on text."""

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
    """The result of an evaluation.

    Attributes:
        loss: Mean loss per token, in nats.
        n_tokens: Number of predicted tokens.
        n_bytes: Number of UTF-8 bytes of these tokens; 0 if unknown.
    """

    loss: float
    n_tokens: int
    n_bytes: int = 0

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte, which compares models with different tokenizers; None if the number of bytes is unknown."""
        return self.loss * self.n_tokens / self.n_bytes / math.log(2) if self.n_bytes else None


def evaluate(
    module: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    *,
    dtype: str = "float32",
    device: Any = "cpu",
    here: World | None = None,
) -> Evaluation:
    """Compute the mean loss over batches, without dropout. The module's training mode is restored.

    Args:
        module: A LanguageModelLoss, or the result of World.wrap for one.
        batches: (ids, targets), each (B, T) int64.
        dtype: "bfloat16" for autocast.
        device: Device of the module.
        here: Processes that share the evaluation; all must call it with the same batches.
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
    """Yield one process's batches. If they do not divide evenly, the last one is ignored but computed, because all
    processes must run the same number.
    """
    while group := list(islice(batches, here.size)):
        ids, targets = group[min(here.rank, len(group) - 1)]
        yield ids, targets if here.rank < len(group) else torch.full_like(targets, IGNORED)


def cover(
    tokens: Tokens, context: int, stride: int | None = None, *, batch_size: int = 4, limit: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut a token stream into batches that predict each token except the first exactly once.

    Args:
        tokens: The token stream, (N,).
        context: Longest window, T.
        stride: Tokens that each window after the first predicts. A smaller stride gives each token more context and
            takes more windows. None means context.
        batch_size: Windows per batch. The last window, which may be shorter, is a batch of its own.
        limit: Largest number of batches; 0 means all.

    Yields:
        (ids, targets), each (B, T) int64. Targets that an earlier window predicted are IGNORED.
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
    """Evaluate a model on texts, including bits per byte. See cover for context and stride.

    Args:
        model: Any GPT-2.
        texts: Files, directories, patterns, "-" for stdin, or .bin files of tokens (whose number of bytes is unknown).
        context: Tokens per window; None means the model's context length.
        stride: Tokens predicted per window.
        batch_size: Windows computed at once.
        field: Key of the text in the objects of .jsonl files.
        dtype: "bfloat16" for autocast.

    Raises:
        FormatError: A text cannot be read.
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
            raise OptionError(f"{path} has fewer than two tokens, so there is nothing to predict; give more text")
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
