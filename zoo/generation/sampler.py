"""Sample the next token from logits, in numpy and without sorting the vocabulary.

The filters keep the tokens above a threshold logit, and the first of those equal to it. A histogram of the logits
finds the threshold in one pass over the vocabulary. Shapes: V vocabulary, K kept tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import OptionError, ZooError
from zoo.generation.options import GenerationOptions

Logits = NDArray[np.floating[Any]]
Probs = NDArray[np.float64]
Ids = NDArray[np.int64]
_BINS = 4096
_BLOCK = 256  # weights that are summed together before a draw


def check_finite(logits: Logits) -> None:
    """Raise an error if logits are NaN or infinite.

    Raises:
        ZooError: Some are.
    """
    if not np.isfinite(logits).all():
        raise ZooError("the model's logits are not finite; check the weights with `zoo inspect --stats`")


def logprobs(logits: Logits, tokens: Sequence[int] | Ids) -> list[float]:
    """Return the natural logarithms of some tokens' probabilities, before penalties, temperature and filters."""
    largest = logits.max()
    with np.errstate(over="ignore"):  # a logit far below the largest becomes -inf and adds nothing
        total = float(np.log(np.exp(logits - largest).sum(dtype=np.float64)))
    return [float(logits[token]) - float(largest) - total for token in tokens]


def best(logits: Logits, n: int) -> tuple[tuple[int, float], ...]:
    """Return the n most probable tokens and their log-probabilities, best first, the lowest ids first among equals."""
    if n == 0:
        return ()
    below = logits.max() - logits.astype(np.float64)
    ids = _nearest(below, np.ones(len(below)), n)
    ids = ids[np.argsort(below[ids], kind="stable")].tolist()
    return tuple(zip(ids, logprobs(logits, ids), strict=True))


class Sampler:
    """Chooses the tokens of one text, with a generator of its own."""

    def __init__(self, options: GenerationOptions, n_prompt: int) -> None:
        """Set the options and the number of prompt tokens, which presence and frequency penalties ignore."""
        self._options, self._n_prompt = options, n_prompt
        self.generator: Any = np.random.default_rng(options.seed)
        if options.draw == "torch":
            import torch

            self.generator = torch.Generator()
            self.generator.seed() if options.seed is None else self.generator.manual_seed(options.seed)

    def pick(self, logits: Logits, ids: Sequence[int]) -> int:
        """Choose the token after `ids` (prompt and text) from logits, (V,)."""
        options = self._options
        if options.temperature and options.draw == "torch":
            import torch

            probs = torch.from_numpy(self.distribution(logits, ids).astype(np.float32))
            return int(torch.multinomial(probs, 1, generator=self.generator))
        logits = _penalise(logits, ids, self._n_prompt, options)
        if options.temperature == 0:
            return int(logits.argmax())
        kept, weights = _filter(logits, options)
        return int(kept[draw(weights, self.generator.random())])

    def distribution(self, logits: Logits, ids: Sequence[int]) -> Probs:
        """Return the probabilities that pick samples from, (V,); the temperature must not be 0."""
        kept, weights = _filter(_penalise(logits, ids, self._n_prompt, self._options), self._options)
        probs = np.zeros(len(logits))
        probs[kept] = weights / weights.sum()
        return probs


def draw(weights: Probs, number: float) -> int:
    """Return the index at a fraction, 0 to 1, of the sum of weights: sums of blocks first, then within one."""
    blocks = np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK)).cumsum()
    target = number * blocks[-1]
    block = min(int(np.searchsorted(blocks, target, side="right")), len(blocks) - 1)
    first = block * _BLOCK
    sums = weights[first : first + _BLOCK].cumsum() + (blocks[block - 1] if block else 0.0)
    # Rounding may put the target at the very end; then the last token with a weight above 0 is chosen.
    return first + min(int(np.searchsorted(sums, target, side="right")), int(np.searchsorted(sums, sums[-1])))


def _penalise(logits: Logits, ids: Sequence[int], n_prompt: int, options: GenerationOptions) -> Logits:
    logits = logits.astype(np.float64)
    if options.repetition_penalty != 1:
        used = np.unique(ids)
        old = logits[used]
        logits[used] = np.where(old < 0, old * options.repetition_penalty, old / options.repetition_penalty)
    if options.presence_penalty or options.frequency_penalty:
        for token, count in Counter(ids[n_prompt:]).items():
            logits[token] -= options.presence_penalty + options.frequency_penalty * count
    if (n := options.no_repeat_ngram_size) and len(ids) >= n - 1:
        last = list(ids[len(ids) - n + 1 :])
        banned = [ids[i + n - 1] for i in range(len(ids) - n + 1) if list(ids[i : i + n - 1]) == last]
        logits[banned] = -np.inf
        if np.isneginf(logits).all():
            raise OptionError(
                f"of {n} leaves no token to choose; set it higher, or to 0", option="no_repeat_ngram_size"
            )
    return logits


def _filter(logits: Logits, options: GenerationOptions) -> tuple[Ids, Probs]:
    """Return the kept tokens, (K,) by id, and their weights relative to the most probable token's."""
    kept = np.flatnonzero(logits > -np.inf)
    below = logits.max() - logits[kept]
    if options.top_k is not None and options.top_k < len(kept):
        places = _nearest(below, np.ones(len(kept)), options.top_k)
        kept, below = kept[places], below[places]
    weights = np.exp(below / -options.temperature)
    total = weights.sum()
    if options.min_p:  # before top_p, which then has fewer tokens to sort; both keep the most probable
        places = np.flatnonzero(weights >= options.min_p)
        kept, below, weights = kept[places], below[places], weights[places]
    if options.top_p is not None and options.top_p < 1:
        places = _nearest(below, weights, options.top_p * total)
        kept, weights = kept[places], weights[places]
    return kept, weights


def _nearest(below: Probs, weights: Probs, enough: float) -> Ids:
    """Return the indices of the most probable tokens, in order: as many as are needed to reach `enough` weight.

    Args:
        below: Distance of each logit from the largest, at least 0.
        weights: Weights of the same tokens, decreasing with the distance.
        enough: Sum of weights to reach, above 0.
    """
    bins = (below * ((_BINS - 1) / max(float(below.max()), 1e-30))).astype(np.int64)
    sums = np.bincount(bins, weights).cumsum()
    last = min(int(np.searchsorted(sums, enough)), len(sums) - 1)  # the bin in which the sum reaches it
    within = bins == last
    split, each = np.sort(below[within]), np.sort(weights[within])[::-1]
    n = max(1, int((each.cumsum() - each + (sums[last - 1] if last else 0.0) < enough).sum()))
    keep = below < split[n - 1]
    equal = np.flatnonzero(below == split[n - 1])
    keep[equal[: n - int(np.searchsorted(split, split[n - 1]))]] = True
    return np.flatnonzero(keep)
