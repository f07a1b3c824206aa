"""Speculative decoding: tokens are guessed cheaply, and one pass of the model judges all guesses.

A pass over a few tokens costs little more than a pass over one, since it reads the same weights. Guessing changes how
fast a text comes, never which texts come how often: greedy text is the same, samples follow the same distribution.
Guesses are looked up in the text so far, or drawn from a smaller model, the draft.

The rule for sampled guesses is that of Leviathan et al., "Fast Inference from Transformers via Speculative Decoding"
(2023), section 2.3. Shapes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.engine.backend import Engine
from zoo.engine.choose import Logits, check_finite, distribution, draw, logprob, pick
from zoo.engine.generation import room_for
from zoo.engine.kv_cache import EngineCache
from zoo.errors import OptionError
from zoo.generation.options import Prompt, Request, Row, Token, prompt_ids, require
from zoo.text.tokenizer import Tokenizer

Probs = NDArray[np.float64]

N_TOKENS = {"ngram": 8, "model": 4}
"""Guesses a pass unless it is said: looked-up ones are free, drafted ones are not."""
_LONGEST, _SHORTEST = 3, 2  # of the last tokens that are looked up


@dataclass
class Counts:
    """What guessing brought for one text.

    Attributes:
        passes: of the model, each of which gives at least one token.
        proposed: guesses.
        accepted: guesses that became tokens.
        tokens: of the text.
    """

    passes: int = 0
    proposed: int = 0
    accepted: int = 0
    tokens: int = 0

    @property
    def rate(self) -> float:
        """Accepted guesses of all; 0 where there were none."""
        return self.accepted / self.proposed if self.proposed else 0.0


def generate_batch(
    engine: Engine,
    prompts: Sequence[Prompt],
    request: Request,
    *,
    draft: Engine | Literal["ngram"] = "ngram",
    n_tokens: int | None = None,
    n_samples: int = 1,
    counts: list[Counts] | None = None,
) -> Iterator[tuple[int, Token]]:
    """Continue several prompts, one after the other, as zoo.engine.generation.generate_batch does, but by guesses.

    With "ngram", and for greedy text, the tokens are the very same as without guesses, also for the same seed. With a
    draft model, samples follow the same distribution, but a seed gives another text.

    Args:
        engine: the model.
        prompts: texts or lists of token ids.
        request: everything else.
        draft: who guesses. "ngram" looks for the last 3 (or 2) tokens earlier in the text and proposes what followed
            them; an engine proposes its own continuation, as long as the text fits its context.
        n_tokens: guesses a pass, 1 to 255; None takes 8 for "ngram" and 4 for a model.
        n_samples: continuations of each prompt; sample s is drawn with the seed `seed + s`.
        counts: a list that gets the counts of each text when it begins, kept up to date.

    Returns:
        an iterator of (i, token): i // n_samples is the prompt's number, i % n_samples the sample's.

    Raises:
        OptionError: the draft has another vocabulary, a prompt cannot be continued, or a number is outside its range.
        ZooError: while iterating, the logits are not finite.
    """
    require("n_samples", n_samples, Integral, lambda n: n >= 1, "a whole number of at least 1")
    if n_tokens is None:
        n_tokens = N_TOKENS["ngram" if draft == "ngram" else "model"]
    require("n_tokens", n_tokens, Integral, lambda n: 1 <= n <= 255, "a whole number from 1 to 255")
    if isinstance(draft, Engine):
        check_draft(engine, draft)
    elif draft != "ngram":
        raise OptionError(f'draft must be an engine or "ngram", not {draft!r}')
    tokenizer = Tokenizer(engine.vocabulary)
    ids = [prompt_ids(engine.config, tokenizer, prompt, request) for prompt in prompts]
    rows = []
    for i in range(len(prompts) * n_samples):
        seed = None if request.seed is None else request.seed + i % n_samples
        generator = np.random.default_rng(seed)
        rows.append(Row(engine.config, tokenizer, request, i, ids[i // n_samples], generator))
    return _all(engine, rows, draft, n_tokens, [] if counts is None else counts)


def check_draft(engine: Engine, draft: Engine) -> None:
    """Refuse a draft whose token ids do not mean what the model's mean.

    Raises:
        OptionError: its vocabulary is another one.
    """
    sizes = draft.config.vocab_size, engine.config.vocab_size
    if sizes[0] != sizes[1]:
        raise OptionError(
            f"the draft model has {sizes[0]} tokens, the model {sizes[1]}; take one of the same vocabulary"
        )
    ours, theirs = (None if v is None or v.is_gpt2 else v.tokens for v in (engine.vocabulary, draft.vocabulary))
    if ours != theirs:
        raise OptionError("the draft model's tokens are not those of the model; take one of the same vocabulary")


class Guesser(Protocol):
    """Proposes tokens that may follow."""

    def propose(self, row: Row, n: int) -> tuple[list[int], list[Probs] | None]:
        """Return up to n tokens, and the distribution (V,) from which each was drawn; None if no chance was in it."""


class Lookup:
    """Proposes what followed the last tokens where they occurred before, the latest time."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}  # where each run of tokens ended last
        self._n_known = 0

    def propose(self, row: Row, n: int) -> tuple[list[int], None]:
        """Copy the tokens after the latest occurrence; a copy that reaches the text's end goes on with itself."""
        ids = row.ids
        for known in range(self._n_known + 1, len(ids)):
            for size in range(_SHORTEST, min(_LONGEST, known) + 1):
                self._ends[tuple(ids[known - size : known])] = known
        self._n_known = len(ids) - 1
        for size in range(_LONGEST, _SHORTEST - 1, -1):
            if end := self._ends.get(tuple(ids[-size:])):
                period = len(ids) - end
                return [ids[end + i % period] for i in range(n)], None
        return [], None


class Draft:
    """Proposes what a smaller model says, chosen as the text itself is."""

    def __init__(self, engine: Engine, row: Row) -> None:
        self._engine = engine
        self._cache = engine.new_cache(1, room_for(engine.config, row))

    def propose(self, row: Row, n: int) -> tuple[list[int], list[Probs] | None]:
        """Draw tokens one after the other; nothing where the text does not fit the draft's context."""
        engine, cache, request = self._engine, self._cache, row.request
        n = min(n, engine.config.context_length - len(row.ids) + 1)
        # What was cached beyond the last token was rejected, or is about to be read.
        cache.truncate(min(int(cache.lengths[0]), len(row.ids) - 1))
        ids, probs = list(row.ids), []
        for _ in range(n):
            logits = engine.prefill(ids[cache.lengths[0] :], cache)
            check_finite(logits)
            if request.temperature == 0:
                ids.append(pick(logits, ids, request, row.generator))
            else:
                probs.append(distribution(logits, ids, request))
                ids.append(draw(probs[-1], row.generator))
        return ids[len(row.ids) :], probs or None


def _all(
    engine: Engine, rows: list[Row], draft: Engine | Literal["ngram"], n_tokens: int, counts: list[Counts]
) -> Iterator[tuple[int, Token]]:
    for row in rows:
        counts.append(Counts())
        if row.request.max_new_tokens:
            guesser = Draft(draft, row) if isinstance(draft, Engine) else Lookup()
            for token in _continue(engine, row, guesser, n_tokens, counts[-1]):
                yield row.index, token


def _continue(engine: Engine, row: Row, guesser: Guesser, n_tokens: int, counts: Counts) -> Iterator[Token]:
    """Guess, judge, and go on behind the last accepted guess, until the text ends."""
    size = engine.config.context_length
    cache = engine.new_cache(1, room_for(engine.config, row))
    while not row.finished:
        guesses: list[int] = []
        drawn_from: list[Probs] | None = None
        # The pass itself gives a token behind the last guess; and past the context there is no cache to go on with.
        if (n := min(n_tokens, size - len(row.ids), row.n_wanted - len(row.ids) - 1)) > 0:
            guesses, drawn_from = guesser.propose(row, n)
        counts.passes += 1
        counts.proposed += len(guesses)
        for i, logits in enumerate(_read(engine, cache, row.ids, guesses)):
            check_finite(logits)
            guess = guesses[i] if i < len(guesses) else None
            if guess is None or drawn_from is None:
                chosen = pick(logits, row.ids, row.request, row.generator)
            else:
                chosen = _judge(distribution(logits, row.ids, row.request), drawn_from[i], guess, row.generator)
            counts.accepted += chosen == guess
            counts.tokens += 1
            yield row.take(chosen, logprob(logits, chosen))
            if chosen != guess or row.finished:
                break


def _read(engine: Engine, cache: EngineCache, ids: list[int], guesses: list[int]) -> Logits:
    """The logits behind the last token and behind each guess."""
    size = engine.config.context_length
    # Cached beyond the tokens are guesses that were rejected. A window that slides is read as a whole.
    cache.truncate(0 if len(ids) > size else min(int(cache.lengths[0]), len(ids) - 1))
    unread = ids[-size:][cache.lengths[0] :]
    if not cache.lengths[0]:
        unread = engine.begin([unread], cache, [0])[0]
    return engine.extend([[*unread, *guesses]], cache, [0], last=len(guesses) + 1)


def _judge(p: Probs, q: Probs, guess: int, generator: np.random.Generator) -> int:
    """Return a token that follows p: the guess drawn from q with probability min(1, p / q), or one of what q lacks."""
    if generator.random() * q[guess] < p[guess]:
        return guess
    lacking = np.maximum(p - q, 0)
    return draw(lacking if lacking.any() else p, generator)  # p and q may be equal but for rounding
