"""From logits to the next token: the filters of zoo.generation.sampler, without a sort of the vocabulary.

What is kept is a set: the tokens above some logit, and the first of those equal to it. A histogram of the logits finds
that logit with one pass over the vocabulary. Shapes: V vocabulary, K kept tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zoo.errors import ZooError
from zoo.generation.options import Request

Logits = NDArray[np.float32]
Weights = NDArray[np.float64]
Ids = NDArray[np.int64]
_BINS = 4096
_BLOCK = 256  # weights summed together before a draw


def check_finite(logits: Logits) -> None:
    """Refuse logits among which no choice can be made.

    Raises:
        ZooError: some are not finite.
    """
    if not np.isfinite(logits).all():
        raise ZooError("the model's logits are not finite; check the weights with `zoo inspect --stats`")


def logprob(logits: Logits, token: int) -> float:
    """Return the natural logarithm of a token's probability, without temperature and filters."""
    largest = logits.max()
    total = np.exp(logits - largest).sum(dtype=np.float64)
    return float(logits[token] - largest) - float(np.log(total))


def pick(logits: Logits, ids: Sequence[int], request: Request, generator: np.random.Generator) -> int:
    """Choose a token; the filters, their order and what they do with equals are those of zoo.generation.sampler."""
    logits = _penalise(logits, ids, request)
    if request.temperature == 0:
        return int(logits.argmax())
    kept, weights = _filter(logits, request)
    return int(kept[draw(weights, generator)])


def distribution(logits: Logits, ids: Sequence[int], request: Request) -> Weights:
    """Return the probabilities with which pick chooses, (V,); the temperature is not 0."""
    kept, weights = _filter(_penalise(logits, ids, request), request)
    probs = np.zeros(len(logits))
    probs[kept] = weights / weights.sum()
    return probs


def draw(weights: Weights, generator: np.random.Generator) -> int:
    """Draw an index with these weights, which need not sum to 1: the sums of blocks first, then within one."""
    blocks = np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK)).cumsum()
    number = generator.random() * blocks[-1]
    block = min(int(np.searchsorted(blocks, number, side="right")), len(blocks) - 1)
    first = block * _BLOCK
    sums = weights[first : first + _BLOCK].cumsum() + (blocks[block - 1] if block else 0.0)
    # Rounding may leave the number at the very end; there the last token with any weight is meant.
    return first + min(int(np.searchsorted(sums, number, side="right")), int(np.searchsorted(sums, sums[-1])))


def _penalise(logits: Logits, ids: Sequence[int], request: Request) -> Logits:
    if request.repetition_penalty == 1:
        return logits
    used = np.unique(ids)
    logits = logits.copy()
    old = logits[used]
    logits[used] = np.where(old < 0, old * request.repetition_penalty, old / request.repetition_penalty)
    return logits


def _filter(logits: Logits, request: Request) -> tuple[Ids, Weights]:
    """The tokens that are kept, (K,) in order, and their weights, of which the best token's is 1."""
    kept, below = np.arange(len(logits)), logits.max().astype(np.float64) - logits
    if request.top_k is not None and request.top_k < len(logits):
        kept = _nearest(below, np.ones(len(logits)), request.top_k)
        below = below[kept]
    weights = np.exp(below / -request.temperature)
    total = weights.sum()
    if request.min_p:  # before top_p, which then has fewer to look at: both keep the most probable
        places = np.flatnonzero(weights >= request.min_p)
        kept, below, weights = kept[places], below[places], weights[places]
    if request.top_p is not None and request.top_p < 1:
        places = _nearest(below, weights, request.top_p * total)
        kept, weights = kept[places], weights[places]
    return kept, weights


def _nearest(below: Weights, weights: Weights, enough: float) -> Ids:
    """The places of the most probable, in order: each while the weights of those before it sum to less than enough.

    Args:
        below: how far each logit is below the largest, from 0 on.
        weights: of the same tokens, none larger than that of a nearer one.
        enough: more than 0.
    """
    bins = (below * ((_BINS - 1) / max(float(below.max()), 1e-30))).astype(np.int64)
    sums = np.bincount(bins, weights).cumsum()
    last = min(int(np.searchsorted(sums, enough)), len(sums) - 1)  # the bin in which it becomes enough
    within = bins == last
    split, each = np.sort(below[within]), np.sort(weights[within])[::-1]
    n = max(1, int((each.cumsum() - each + (sums[last - 1] if last else 0.0) < enough).sum()))
    keep = below < split[n - 1]
    equal = np.flatnonzero(below == split[n - 1])
    keep[equal[: n - int(np.searchsorted(split, split[n - 1]))]] = True
    return np.flatnonzero(keep)
