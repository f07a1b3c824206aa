"""The decode loop, the only one: several rows at a time, each leaving when it is finished.

Shapes: B rows, T tokens of the context, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.cache import KVCache
from zoo.errors import OptionError, ZooError
from zoo.model import GPTModel
from zoo.sampler import Sampler, Sampling, make_generator, make_sampler, require
from zoo.stop import TextStream

FinishReason = Literal["length", "eos", "stop", "context"]
PastContext = Literal["slide", "stop"]


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    Attributes:
        id: the token.
        text: that it settles; "" while a character is incomplete or a stop string may be coming.
        logprob: natural logarithm of its probability under the model alone, before penalty, temperature and filters.
        finish_reason: None, but in the last token of a text: "length" (max_new_tokens are there), "eos", "stop" (a
            stop string or id) or "context" (the context is full, and past_context is "stop").
    """

    id: int
    text: str
    logprob: float
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, kw_only=True)
class Request(Sampling):
    """Everything that may be asked of a generation; zoo.generate describes the fields.

    Raises:
        OptionError: a value is outside its range.
    """

    max_new_tokens: int = 64
    stop: str | Sequence[str] = ()
    stop_ids: Collection[int] = ()
    ignore_eos: bool = False
    past_context: PastContext = "slide"

    def __post_init__(self) -> None:
        super().__post_init__()
        require("max_new_tokens", self.max_new_tokens, Integral, lambda n: n >= 0, "a whole number from 0 on")
        for stop in self.stop_strings:
            if not isinstance(stop, str) or not stop:
                raise OptionError(f"stop must hold strings that are not empty, not {stop!r}")
        for stop_id in self.stop_ids:
            require("stop_ids", stop_id, Integral, lambda n: n >= 0, "whole numbers from 0 on")
        if self.past_context not in ("slide", "stop"):
            raise OptionError(f"past_context must be slide or stop, not {self.past_context!r}")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings, also where only one was given."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class Row:
    """One text that is being continued.

    Attributes:
        index: its number among the texts asked for.
        ids: the prompt's and the new tokens.
        generator: draws its tokens and nobody else's.
        finished: whether it has got its last token.
    """

    def __init__(
        self, model: GPTModel, request: Request, index: int, prompt: Sequence[int], generator: torch.Generator
    ) -> None:
        self.index = index
        self.ids = list(prompt)
        self.generator = generator
        self.finished = False
        self._n_wanted = len(prompt) + request.max_new_tokens
        self._n_longest = model.config.context_length if request.past_context == "stop" else self._n_wanted
        self._eos_id = None if request.ignore_eos else model.tokenizer.eos_id
        self._stop_ids = frozenset(request.stop_ids)
        self._stream = TextStream(model.tokenizer, request.stop_strings)

    def take(self, token_id: int, logprob: float) -> Token:
        """Add a token and say what it means for the text."""
        self.ids.append(token_id)
        reason: FinishReason | None = None
        text = ""
        if token_id == self._eos_id:
            reason = "eos"
        elif token_id in self._stop_ids:
            reason = "stop"
        else:
            text = self._stream.feed(token_id)
            reason = self._limit()
        if reason:
            text += self._stream.finish()
            self.finished = True
        return Token(token_id, text, logprob, reason)

    def _limit(self) -> FinishReason | None:
        if self._stream.stopped:
            return "stop"
        if len(self.ids) >= self._n_wanted:
            return "length"
        return "context" if len(self.ids) > self._n_longest else None


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
        Row(model, request, p * n_samples + s, prompt, _generator(model, request.seed, s))
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
