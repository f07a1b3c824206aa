"""From logits to the next token: small pure filters, and the sampler made of them.

The order is that of transformers: repetition penalty, temperature, top_k, top_p, min_p, then one draw. A filter sets
what it removes to -inf. Shapes: B batch, V vocabulary; filters take logits (V,) or (B, V), float32 or wider.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from zoo.errors import OptionError

Sampler = Callable[[Tensor, Sequence[Sequence[int]], Sequence[torch.Generator]], Tensor]
"""(logits (B, V), each row's ids so far, each row's generator) -> the chosen ids, (B,) int64."""

# What a factor may be: further out, a float32 logit times or divided by one can overflow.
_SMALLEST, _LARGEST = 1e-6, 1e6


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen.

    The defaults are top_p 0.95 at temperature 1: of the methods that Holtzman et al., "The Curious Case of Neural Text
    Degeneration" (2020), ran on GPT-2, its text came nearest to people's in perplexity, variety and repetition.

    Attributes:
        temperature: logits are divided by it, 1e-6 to 1e6; 0 takes the most probable token (of equals, the lowest id).
        top_k: keep exactly this many of the most probable tokens (of equals, the lowest ids first), at least 1; more
            than the vocabulary, or None, keep all.
        top_p: keep the smallest set of most probable tokens that together reach this probability, above 0 to 1 (of
            equals, the lowest ids first): a token stays while those before it sum to less. 1 or None keeps all.
        min_p: keep tokens at least this fraction, 0 to 1, as probable as the most probable one. 0 or None keeps all.
        repetition_penalty: logits of tokens that already occur (in the prompt, too) are divided by it where positive
            and multiplied where negative, 1e-6 to 1e6; 1 does nothing. From CTRL (Keskar et al., 2019).
        seed: of the row's own generator, 0 to 2**63 - 1; None takes fresh entropy.

    Raises:
        OptionError: a value is outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = 0.95
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        factor = f"from {_SMALLEST:g} to {_LARGEST:g}"
        require("temperature", self.temperature, Real, lambda x: x == 0 or _is_factor(x), f"0, or {factor}")
        if self.top_k is not None:
            require("top_k", self.top_k, Integral, lambda x: x >= 1, "a whole number of at least 1, or None")
        if self.top_p is not None:
            require("top_p", self.top_p, Real, lambda x: 0 < x <= 1, "above 0 and at most 1, or None")
        if self.min_p is not None:
            require("min_p", self.min_p, Real, lambda x: 0 <= x <= 1, "from 0 to 1, or None")
        require("repetition_penalty", self.repetition_penalty, Real, _is_factor, factor)
        if self.seed is not None:
            allowed = "a whole number from 0 to 2**63 - 1, or None"
            require("seed", self.seed, Integral, lambda x: 0 <= x < 2**63, allowed)


def require(name: str, value: object, kind: type[Any], is_valid: Callable[[Any], bool], allowed: str) -> None:
    """Check one option.

    Raises:
        OptionError: the value is not of this kind of number, or not valid.
    """
    if isinstance(value, bool) or not isinstance(value, kind) or not is_valid(value):
        raise OptionError(f"{name} must be {allowed}, not {value!r}")


def _is_factor(x: float) -> bool:
    return _SMALLEST <= x <= _LARGEST


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
