"""Text from the engine: what zoo.generation does with the torch model, without torch.

Greedy tokens are those of the torch model. Samples are drawn from numpy's generator, so that a seed gives the same text
every time, but not the torch model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from zoo.engine.engine import Engine, EngineCache
from zoo.engine.native import logsumexp
from zoo.errors import ZooError
from zoo.request import Prompt, Request, Row, Token, prompt_ids, require
from zoo.tokenizer import Tokenizer

Logits = NDArray[np.float32]


def generate_batch(
    engine: Engine, prompts: Sequence[Prompt], request: Request, *, n_samples: int = 1
) -> Iterator[tuple[int, Token]]:
    """Continue several prompts at once, of any lengths, each n_samples times; one pass over the weights serves all.

    Args:
        engine: the model.
        prompts: texts or lists of token ids.
        request: everything else.
        n_samples: continuations of each prompt; sample s is drawn with the seed `seed + s`.

    Returns:
        an iterator of (i, token), as they come: i // n_samples is the prompt's number, i % n_samples the sample's.

    Raises:
        OptionError: a prompt cannot be continued, or n_samples is below 1.
        ZooError: while iterating, the logits are not finite.
    """
    require("n_samples", n_samples, Integral, lambda n: n >= 1, "a whole number of at least 1")
    tokenizer = Tokenizer(engine.vocabulary)
    seeds = [None if request.seed is None else request.seed + s for s in range(n_samples)]
    ids = [prompt_ids(engine.config, tokenizer, prompt, request) for prompt in prompts]
    rows = [
        Row(engine.config, tokenizer, request, p * n_samples + s, prompt, np.random.default_rng(seed))
        for p, prompt in enumerate(ids)
        for s, seed in enumerate(seeds)
    ]
    return _decode(engine, rows, request) if request.max_new_tokens else iter(())


def _decode(engine: Engine, rows: list[Row], request: Request) -> Iterator[tuple[int, Token]]:
    size = engine.config.context_length
    room = min(size, max(len(row.ids) for row in rows) + request.max_new_tokens)
    cache = engine.new_cache(len(rows), room)
    while rows:
        for row, logits in zip(rows, _logits(engine, cache, rows), strict=True):
            if not np.isfinite(logits).all():
                raise ZooError("the model's logits are not finite; check the weights with `zoo inspect --stats`")
            chosen = pick(logits, row.ids, request, row.generator)
            yield row.index, row.take(chosen, float(logits[chosen]) - logsumexp(logits))
        rows = [row for row in rows if not row.finished]


def _logits(engine: Engine, cache: EngineCache, rows: list[Row]) -> list[Logits]:
    """The logits behind each row's last token: one step for all, but a new or sliding row reads its whole window."""
    size = engine.config.context_length
    found: dict[int, Logits] = {}
    stepping = [row for row in rows if cache.lengths[row.index] and len(row.ids) <= size]
    if stepping:
        numbers = [row.index for row in stepping]
        found.update(zip(numbers, engine.step([row.ids[-1] for row in stepping], cache, numbers), strict=True))
    for row in rows:
        if row.index not in found:
            cache.truncate(0, row.index)
            found[row.index] = engine.prefill(row.ids[-size:], cache, row.index)
    return [found[row.index] for row in rows]


def pick(logits: Logits, ids: Sequence[int], request: Request, generator: np.random.Generator) -> int:
    """Choose a token; the filters, their order and what they do with equals are those of zoo.sampler."""
    if request.repetition_penalty != 1:
        used = np.unique(ids)
        logits = logits.copy()
        old = logits[used]
        logits[used] = np.where(old < 0, old * request.repetition_penalty, old / request.repetition_penalty)
    if request.temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[: request.top_k]
    probs = np.exp((logits[order] - logits[order[0]]).astype(np.float64) / request.temperature)
    probs /= probs.sum()
    if request.top_p is not None and request.top_p < 1:
        probs = probs[: int((probs.cumsum() - probs < request.top_p).sum())]
        probs = probs / probs.sum()
    if request.min_p:
        probs = probs[probs >= request.min_p * probs[0]]
    total = probs.cumsum()
    return int(order[min(np.searchsorted(total, generator.random() * total[-1], side="right"), len(probs) - 1)])
