"""The decode loop, the only one: several rows at a time, each leaving when it is finished and making room for the next.

Shapes: B rows, T tokens of the context, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.generation.options import Row, Token
from zoo.generation.sampler import make_sampler
from zoo.models.gpt2.kv_cache import KVCache
from zoo.models.gpt2.model import GPTModel

_ROOM = 64  # a cache grows by whole multiples of so many tokens


class Window:
    """What the model sees of each row: its new token through a cache while the row fits the context, and all of its
    last T tokens, at positions 0 on, once it does not (positions are absolute, so that a window that moves changes
    every key and value).
    """

    def __init__(self, model: GPTModel) -> None:
        weight = model.tok_emb.weight
        self._model, self._dtype, self._device = model, weight.dtype, weight.device
        self._size = model.config.context_length
        self._cache = self._new_cache(1, 1)
        self._cached: list[Row] = []  # in the order of the cache's first rows

    @torch.inference_mode()
    def logits(self, rows: list[Row]) -> Tensor:
        """Return the logits of each row's next token, (B, V) float32, without the columns of padding.

        Raises:
            ZooError: some are not finite.
        """
        self._forget()
        places = {row: i for i, row in enumerate(rows)}
        past = [row for row in rows if len(row.ids) > self._size]
        known = {*self._cached, *past}
        new = [row for row in rows if row not in known]
        weight = self._model.tok_emb.weight
        logits = weight.new_empty(len(rows), len(weight))
        with _evaluating(self._model):
            for part, compute in ((self._cached, self._step), (past, self._look_back), (new, self._prefill)):
                if part:
                    logits[[places[row] for row in part]] = compute(part)
        logits = logits[:, : self._model.config.vocab_size].float()
        if not logits.isfinite().all():
            raise ZooError("the model's logits are not finite; check the weights with `zoo inspect --stats`")
        return logits

    def _step(self, rows: list[Row]) -> Tensor:
        """One pass for the new token of every cached row."""
        cache = self._cache if len(rows) == len(self._cache.lengths) else self._cache.first(len(rows))
        return self._model(self._tensor([row.ids[-1:] for row in rows]), cache)[:, -1]

    def _look_back(self, rows: list[Row]) -> Tensor:
        """One pass over the windows of rows that are longer than the context."""
        ids = self._tensor([row.ids[-self._size :] for row in rows])  # (B, T)
        return self._model(ids, last=self._tensor([self._size - 1] * len(rows)))

    def _prefill(self, rows: list[Row]) -> Tensor:
        """One pass over the prompts of rows that begin; rows that begin with the same prompt are copies."""
        prompts = list(dict.fromkeys(tuple(row.ids) for row in rows))
        longest = max(map(len, prompts))
        read = self._new_cache(len(prompts), longest)
        ids = self._tensor([prompt + (0,) * (longest - len(prompt)) for prompt in prompts])  # (B, T)
        logits: Tensor = self._model(ids, read, self._tensor([len(prompt) - 1 for prompt in prompts]))
        copies = self._tensor([prompts.index(tuple(row.ids)) for row in rows])
        first, n = len(self._cached), len(self._cached) + len(rows)
        self._make_room(n, max(row.n_wanted for row in rows))
        self._cache.put_rows(self._tensor(range(first, n)), read, copies)
        self._cached += rows
        return logits[copies]

    def _forget(self) -> None:
        """Let go of the rows that are finished or have outgrown the context; the last ones take their places."""
        for i in reversed(range(len(self._cached))):
            if self._cached[i].finished or len(self._cached[i].ids) > self._size:
                last = self._cached.pop()
                if i < len(self._cached):
                    self._cached[i] = last
                    self._cache.put_rows(self._tensor([i]), self._cache, self._tensor([len(self._cached)]))

    def _make_room(self, n: int, tokens: int) -> None:
        room = min(self._size, -(-tokens // _ROOM) * _ROOM)
        old, kept = self._cache, self._tensor(range(len(self._cached)))
        if n > len(old.lengths) or room > old.capacity:
            self._cache = self._new_cache(max(n, len(old.lengths)), max(room, old.capacity))
            if len(kept):
                self._cache.put_rows(kept, old, kept)

    def _new_cache(self, n: int, room: int) -> KVCache:
        return KVCache(self._model.config, n, room, dtype=self._dtype, device=self._device)

    def _tensor(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def decode(model: GPTModel, rows: Iterable[Row], n_slots: int) -> Iterator[tuple[int, Token]]:
    """Continue rows, at most n_slots of them at once, and yield the tokens as they come.

    Yields:
        a row's index and its next token.
    """
    waiting = (row for row in rows if row.request.max_new_tokens)
    live: list[Row] = []
    window = Window(model)
    while live := [*live, *islice(waiting, n_slots - len(live))]:
        for row, (token_id, logprob) in zip(live, _pick(window.logits(live), live), strict=True):
            yield row.index, row.take(token_id, logprob)
        live = [row for row in live if not row.finished]


@torch.inference_mode()
def _pick(logits: Tensor, rows: list[Row]) -> list[tuple[int, float]]:
    """Choose each row's next token: its id and log-probability. Rows that ask for the same are sampled together."""
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(id(row.request), []).append(i)
    ids = torch.empty(len(rows), dtype=torch.int64, device=logits.device)
    for group in groups.values():
        sample = make_sampler(rows[group[0]].request)
        ids[group] = sample(logits[group], [rows[i].ids for i in group], [rows[i].generator for i in group])
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
