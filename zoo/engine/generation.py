"""Text from the engine: what zoo.generation.api does with the torch model, without torch.

Greedy tokens are those of the torch model. Samples are drawn from numpy's generator, so that a seed gives the same text
every time, but not the torch model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral

import numpy as np

from zoo.engine.backend import Engine
from zoo.engine.choose import Logits, check_finite, logprob, pick
from zoo.engine.kv_cache import EngineCache
from zoo.generation.options import Prompt, Request, Row, Token, prompt_ids, require
from zoo.models.gpt2.config import GPTConfig
from zoo.text.tokenizer import Tokenizer

_ROOM = 64  # a cache grows by whole multiples of so many tokens


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
    return _decode(engine, rows, len(rows))


def generate_many(
    engine: Engine, items: Iterable[tuple[Prompt, Request]], *, batch: int = 16
) -> Iterator[tuple[int, Token]]:
    """Continue any number of prompts, `batch` at a time; where a text ends, the next prompt takes its place at once.

    Args:
        engine: the model.
        items: prompts, each with what is asked for it; one is taken when there is a place for it.
        batch: texts that share one pass over the weights.

    Returns:
        an iterator of (i, token), as they come: i is the item's number, from 0 on. Each text is what its item gives
        alone, to the bit.

    Raises:
        OptionError: batch is below 1; or, while iterating, a prompt cannot be continued.
        ZooError: while iterating, the logits are not finite.
    """
    require("batch", batch, Integral, lambda n: n >= 1, "a whole number of at least 1")
    tokenizer = Tokenizer(engine.vocabulary)
    rows = (
        Row(engine.config, tokenizer, request, i, prompt_ids(engine.config, tokenizer, prompt, request), rng)
        for i, (prompt, request) in enumerate(items)
        for rng in [np.random.default_rng(request.seed)]
    )
    return _decode(engine, rows, batch)


def _decode(engine: Engine, rows: Iterable[Row], n_slots: int) -> Iterator[tuple[int, Token]]:
    """Continue rows in a fixed number of slots, each a row of the cache."""
    waiting = (row for row in rows if row.request.max_new_tokens)
    slots: dict[int, Row] = {}
    cache = engine.new_cache(max(n_slots, 1), 1)
    while True:
        for slot in range(n_slots):
            if slot not in slots and (row := next(waiting, None)):
                slots[slot] = row
                cache.grow(room_for(engine.config, row))
        if not slots:
            return
        for (slot, row), logits in zip(list(slots.items()), _logits(engine, cache, slots), strict=True):
            check_finite(logits)
            chosen = pick(logits, row.ids, row.request, row.generator)
            yield row.index, row.take(chosen, logprob(logits, chosen))
            if row.finished:
                cache.truncate(0, slot)
                del slots[slot]


def _logits(engine: Engine, cache: EngineCache, slots: dict[int, Row]) -> Logits:
    """The logits behind each row's last token, from one pass for all: a new or sliding row reads its whole window."""
    size = engine.config.context_length
    parts = []
    for slot, row in slots.items():
        if len(row.ids) > size:
            cache.truncate(0, slot)
        parts.append(row.ids[-1:] if cache.lengths[slot] else row.ids[-size:])
    return engine.extend(engine.begin(parts, cache, list(slots)), cache, list(slots))


def room_for(config: GPTConfig, row: Row) -> int:
    """How many tokens a cache needs for a row, in whole steps of its growth."""
    return min(config.context_length, -(-row.n_wanted // _ROOM) * _ROOM)
