"""The decode loop: rows occupy slots, and the next prompt takes a slot as soon as a text ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from zoo.generation.base import Backend
from zoo.generation.row import Row, Token
from zoo.generation.sampler import Logits, best, check_finite, logprobs
from zoo.generation.speculative import NO_DRAFT, Draft


def decode(backend: Backend, rows: Iterable[Row], n_slots: int) -> Iterator[tuple[int, Token]]:
    """Continue at most n_slots rows at once and yield the tokens as they are generated.

    Every pass over the weights serves all rows: it adds the newest token of each, the draft tokens that are to be
    checked, and the prompts of rows that begin.

    Yields:
        The index of a row and its next token.

    Raises:
        ZooError: The logits are not finite.
    """
    waiting = (row for row in rows if row.options.max_new_tokens)
    live = list(islice(waiting, n_slots))
    if not live:
        return
    cache = backend.new_cache(len(live), max(row.room for row in live))
    while live:
        drafts = [_draft(row) for row in live]
        found = _logits(backend, cache, live, drafts)
        for slot, (row, draft, logits) in enumerate(zip(live, drafts, found, strict=True)):
            yield from _take(row, draft, logits)
            row.n_cached = len(row.ids) - row.start - 1
            if draft.ids:
                cache.truncate(row.n_cached, slot)  # rejected tokens
            if row.slide():
                cache.truncate(0, slot)
        _replace_finished(cache, live, waiting)


def _draft(row: Row) -> Draft:
    """Return the draft tokens of a row's next pass; none during prefill and after the window has moved."""
    if row.drafter is None:
        return NO_DRAFT
    row.drafter.counts.passes += 1
    return row.drafter.propose(row) if row.n_cached else Draft(counts=row.drafter.counts)


def _logits(backend: Backend, cache: Any, live: list[Row], drafts: list[Draft]) -> list[Logits]:
    """Return the logits after each row's last token and its draft tokens; equal prompts are computed once."""
    parts: dict[int, list[int]] = {}
    first: dict[tuple[int, ...], int] = {}
    source = list(range(len(live)))
    for slot, (row, draft) in enumerate(zip(live, drafts, strict=True)):
        row.slide()  # a prompt that is longer than the context
        unread = row.ids[row.start + row.n_cached :]
        if not row.n_cached:
            source[slot] = first.setdefault(tuple(unread), slot)
        if source[slot] == slot:
            parts[slot] = [*unread, *draft.ids]
    last = [len(drafts[slot].ids) + 1 for slot in parts]
    found = dict(zip(parts, backend.logits(list(parts.values()), cache, list(parts), last), strict=True))
    for slot, other in enumerate(source):
        if other != slot:
            cache.copy_row(other, slot)
    return [found[other] for other in source]


def _take(row: Row, draft: Draft, logits: Logits) -> Iterator[tuple[int, Token]]:
    """Yield a row's next tokens: the accepted draft tokens, then one that the model chooses."""
    for i, each in enumerate(logits):
        check_finite(each)
        token, is_accepted = draft.judge(i, each, row)
        yield row.index, row.take(token, logprobs(each, [token])[0], best(each, row.options.top_logprobs))
        if row.finished or not is_accepted:
            return


def _replace_finished(cache: Any, live: list[Row], waiting: Iterator[Row]) -> None:
    """Put the next waiting rows into the slots of finished ones; without waiting rows, move the last rows there."""
    for slot in [slot for slot, row in enumerate(live) if row.finished]:
        if new := next(waiting, None):
            live[slot] = new
            cache.truncate(0, slot)
            cache.grow(new.room)
    for slot in reversed(range(len(live))):
        if live[slot].finished:
            row = live.pop()
            if slot < len(live):
                live[slot] = row
                cache.copy_row(len(live), slot)
            cache.truncate(0, len(live))
