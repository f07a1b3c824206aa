"""The decode loop, the only one: several rows at a time, each leaving when it is finished.

Shapes: B rows, T tokens of the context, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zoo.cache import KVCache
from zoo.errors import ZooError
from zoo.model import GPTModel
from zoo.request import Request, Row, Token
from zoo.sampler import Sampler, make_generator, make_sampler


class Window:
    """What the model sees of each row: its new token through a cache while the row fits the context, and all of its
    last T tokens, at positions 0 on, once it does not (positions are absolute, so that a window that moves changes
    every key and value).
    """

    def __init__(self, model: GPTModel, max_new_tokens: int, n_samples: int) -> None:
        """Prepare for rows in groups of n_samples that begin with the same prompt."""
        weight = model.tok_emb.weight
        self._model, self._dtype, self._device = model, weight.dtype, weight.device
        self._size = model.config.context_length
        self._max_new_tokens = max_new_tokens
        self._n_samples = n_samples
        self._cache: KVCache | None = None
        self._cached: list[Row] = []  # in the order of the cache's rows

    @torch.inference_mode()
    def logits(self, rows: list[Row]) -> Tensor:
        """Return the logits of each row's next token, (B, V) float32, without the columns of padding.

        Raises:
            ZooError: some are not finite.
        """
        with _evaluating(self._model):
            logits = self._prefill(rows) if self._cache is None else self._step(self._cache, rows)
        logits = logits[:, : self._model.config.vocab_size].float()
        if not logits.isfinite().all():
            raise ZooError("the model's logits are not finite; check the weights with `zoo inspect --stats`")
        return logits

    def _prefill(self, rows: list[Row]) -> Tensor:
        prompts = [row.ids[-self._size :] for row in rows[:: self._n_samples]]
        longest = max(map(len, prompts))
        room = min(self._size, longest + self._max_new_tokens)
        cache = KVCache(self._model.config, len(prompts), room, dtype=self._dtype, device=self._device)
        ids = self._tensor([prompt + [0] * (longest - len(prompt)) for prompt in prompts])  # (B, T)
        logits: Tensor = self._model(ids, cache, self._tensor([len(prompt) - 1 for prompt in prompts]))
        if self._n_samples > 1:  # each prompt was read once; its samples start from copies
            copies = self._tensor(range(len(prompts))).repeat_interleave(self._n_samples)
            cache.keep(copies)
            logits = logits[copies]
        self._cache, self._cached = cache, rows
        return logits

    def _step(self, cache: KVCache, rows: list[Row]) -> Tensor:
        self._drop(cache)
        inside = [i for i, row in enumerate(rows) if len(row.ids) <= self._size]
        past = [i for i, row in enumerate(rows) if len(row.ids) > self._size]
        weight = self._model.tok_emb.weight
        logits = weight.new_empty(len(rows), len(weight))
        if inside:
            logits[inside] = self._model(self._tensor([rows[i].ids[-1:] for i in inside]), cache)[:, -1]
        if past:
            ids = self._tensor([rows[i].ids[-self._size :] for i in past])  # (B, T)
            logits[past] = self._model(ids, last=self._tensor([self._size - 1] * len(past)))
        return logits

    def _drop(self, cache: KVCache) -> None:
        """Let go of the rows that are finished or have outgrown the context."""
        kept = [i for i, row in enumerate(self._cached) if not row.finished and len(row.ids) <= self._size]
        if len(kept) < len(self._cached):
            cache.keep(self._tensor(kept))
            self._cached = [self._cached[i] for i in kept]

    def _tensor(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def decode(
    model: GPTModel, prompts: Sequence[Sequence[int]], request: Request, n_samples: int
) -> Iterator[tuple[int, Token]]:
    """Continue every prompt n_samples times, all at once, and yield the tokens as they come.

    Yields:
        the number of the text, its prompt's number * n_samples + its sample's number, and its next token.
    """
    sample = make_sampler(request)
    rows = [
        Row(model.config, model.tokenizer, request, p * n_samples + s, prompt, _generator(model, request.seed, s))
        for p, prompt in enumerate(prompts)
        for s in range(n_samples)
        if request.max_new_tokens > 0
    ]
    window = Window(model, request.max_new_tokens, n_samples)
    while rows:
        for row, (token_id, logprob) in zip(rows, _pick(sample, window.logits(rows), rows), strict=True):
            yield row.index, row.take(token_id, logprob)
        rows = [row for row in rows if not row.finished]


def _generator(model: GPTModel, seed: int | None, sample: int) -> torch.Generator:
    return make_generator(None if seed is None else seed + sample, model.tok_emb.weight.device)


@torch.inference_mode()
def _pick(sample: Sampler, logits: Tensor, rows: list[Row]) -> list[tuple[int, float]]:
    """Choose each row's next token: its id and log-probability."""
    ids = sample(logits, [row.ids for row in rows], [row.generator for row in rows])
    logprobs = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
    return list(zip(ids.tolist(), logprobs.tolist(), strict=True))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off, then put back each module's own mode."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
