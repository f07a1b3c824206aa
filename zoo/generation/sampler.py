"""From logits to the next token: small pure filters, and the sampler made of them.

The order is that of transformers: repetition penalty, temperature, top_k, top_p, min_p, then one draw. A filter sets
what it removes to -inf. Shapes: B batch, V vocabulary; filters take logits (V,) or (B, V), float32 or wider.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from zoo.generation.options import Sampling

Sampler = Callable[[Tensor, Sequence[Sequence[int]], Sequence[torch.Generator]], Tensor]
"""(logits (B, V), each row's ids so far, each row's generator) -> the chosen ids, (B,) int64."""


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make the tokens marked in seen, bool of the logits' shape, less probable."""
    penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, penalised, logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep exactly k tokens, the most probable ones; of those equal to the last, the lowest ids."""
    k = min(k, logits.shape[-1])
    return _keep_largest(logits, logits.topk(k).values[..., -1:], k)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the most probable tokens, each of them while those before it sum to less than p."""
    if p >= 1:  # not left to the sum, which may reach 1 before its end by rounding
        return logits
    # All tokens below (1 - p) / V together have less than 1 - p, so those above reach p; sorting them alone is faster.
    probs = logits.softmax(-1)
    n_candidates = (probs >= (1 - p) / logits.shape[-1]).sum(-1).max()
    ordered, ids = logits.topk(max(1, int(n_candidates)))
    probs = probs.gather(-1, ids)
    n = (probs.cumsum(-1) - probs < p).sum(-1, keepdim=True)
    return _keep_largest(logits, ordered.gather(-1, n - 1), n)


def _keep_largest(logits: Tensor, nth: Tensor, n: int | Tensor) -> Tensor:
    """Keep n tokens, knowing the n-th largest logit, (..., 1)."""
    above, equal = logits > nth, logits == nth
    room = n - above.sum(-1, keepdim=True)
    return logits.masked_fill(~(above | (equal & (equal.cumsum(-1) <= room))), -math.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens of at least p times the largest probability."""
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < p * probs.amax(-1, keepdim=True), -math.inf)


def choose(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw a token for each row, with the row's own generator: (B, V) -> (B,) int64.

    One torch.multinomial a row, as in the book, so that its samples come out; a row's draws depend on no other row.
    """
    probs = logits.softmax(-1)
    drawn = [torch.multinomial(row, 1, generator=generator) for row, generator in zip(probs, generators, strict=True)]
    return torch.cat(drawn)


def make_sampler(sampling: Sampling) -> Sampler:
    """Turn options into one function, so that the decode loop looks at none of them."""
    filters = _filters(sampling)

    def sample(logits: Tensor, ids: Sequence[Sequence[int]], generators: Sequence[torch.Generator]) -> Tensor:
        if sampling.repetition_penalty != 1:
            logits = penalise_repetition(logits, _mark(ids, logits), sampling.repetition_penalty)
        if sampling.temperature == 0:  # no filter ever removes the most probable token, the lowest id among equals
            return logits.argmax(-1)
        logits = logits / sampling.temperature
        for keep in filters:
            logits = keep(logits)
        return choose(logits, generators)

    return sample


def make_generator(seed: int | None, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of one row's own; torch's global one is not touched. A seed of None is fresh entropy."""
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def _filters(sampling: Sampling) -> list[Callable[[Tensor], Tensor]]:
    filters: list[Callable[[Tensor], Tensor]] = []
    if sampling.top_k is not None:
        filters.append(partial(keep_top_k, k=sampling.top_k))
    if sampling.top_p is not None:
        filters.append(partial(keep_top_p, p=sampling.top_p))
    if sampling.min_p:
        filters.append(partial(keep_min_p, p=sampling.min_p))
    return filters


def _mark(ids: Sequence[Sequence[int]], logits: Tensor) -> Tensor:
    marks = torch.zeros_like(logits, dtype=torch.bool)
    for row, used in zip(marks, ids, strict=True):
        row[torch.tensor(used, device=logits.device)] = True
    return marks
