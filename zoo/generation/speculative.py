"""Speculative decoding: cheap draft tokens that one pass of the model checks, after Leviathan et al. (2023).

Greedy texts, and samples with n-gram drafts, are the same as without speculation. Samples with a draft model follow
the same distribution. Shapes: V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from zoo.errors import OptionError
from zoo.generation.base import Backend
from zoo.generation.sampler import Logits, Probs, check_finite, draw

if TYPE_CHECKING:
    from zoo.generation.row import Row

N_TOKENS = {"ngram": 8, "model": 4}
"""Default number of draft tokens per pass; n-gram drafts cost almost nothing."""
_LONGEST, _SHORTEST = 3, 2  # sizes of the n-grams that are looked up


@dataclass
class Counts:
    """Statistics of speculation for one text.

    Attributes:
        passes: Passes of the model, each of which yields at least one token.
        proposed: Draft tokens.
        accepted: Draft tokens that became tokens of the text.
        tokens: Tokens of the text.
    """

    passes: int = 0
    proposed: int = 0
    accepted: int = 0
    tokens: int = 0

    @property
    def rate(self) -> float:
        """The accepted fraction of the draft tokens; 0 if there were none."""
        return self.accepted / self.proposed if self.proposed else 0.0


@dataclass(frozen=True, slots=True)
class Draft:
    """Draft tokens of one pass.

    Attributes:
        ids: The tokens.
        probs: Distribution (V,) that each was sampled from; None if they were not sampled.
        counts: Statistics of the text; None without speculation.
    """

    ids: list[int] = field(default_factory=list)
    probs: list[Probs] | None = None
    counts: Counts | None = None

    def judge(self, i: int, logits: Logits, row: Row) -> tuple[int, bool]:
        """Return the next token and whether it is draft token i; all earlier draft tokens were accepted."""
        drafted = self.ids[i] if i < len(self.ids) else None
        if drafted is None or self.probs is None:
            token = row.sampler.pick(logits, row.ids)
        else:
            token = _accept(row.sampler.distribution(logits, row.ids), self.probs[i], drafted, row.sampler.generator)
        if counts := self.counts:
            counts.tokens += 1
            counts.accepted += token == drafted
        return token, token == drafted


NO_DRAFT = Draft()


class Drafter(Protocol):
    """Proposes draft tokens for one text.

    Attributes:
        counts: Statistics of its draft tokens.
    """

    counts: Counts

    def propose(self, row: Row) -> Draft:
        """Return draft tokens, at most as many as fit."""


class NgramDrafter:
    """Proposes the tokens that followed the latest earlier occurrence of the last tokens."""

    def __init__(self, n_tokens: int) -> None:
        self.counts = Counts()
        self._n_tokens = n_tokens
        self._ends: dict[tuple[int, ...], int] = {}  # n-gram -> end of its last occurrence
        self._n_known = 0

    def propose(self, row: Row) -> Draft:
        """Copy the tokens that follow; a copy that reaches the end of the text continues with itself."""
        ids, found = row.ids, list[int]()
        for known in range(self._n_known + 1, len(ids)):
            for size in range(_SHORTEST, min(_LONGEST, known) + 1):
                self._ends[tuple(ids[known - size : known])] = known
        self._n_known = len(ids) - 1
        for size in range(_SHORTEST, _LONGEST + 1):  # a longer match replaces a shorter one
            if end := self._ends.get(tuple(ids[-size:])):
                found = [ids[end + i % (len(ids) - end)] for i in range(min(self._n_tokens, row.n_free))]
        self.counts.proposed += len(found)
        return Draft(found, None, self.counts)


class ModelDrafter:
    """Proposes tokens that a smaller model generates with the text's options."""

    def __init__(self, backend: Backend, n_tokens: int) -> None:
        self.counts = Counts()
        self._backend, self._n_tokens = backend, n_tokens
        self._cache: Any = None
        self._ids: list[int] = []  # cached

    def propose(self, row: Row) -> Draft:
        """Generate tokens one by one, or none if the text exceeds the draft model's context."""
        size = self._backend.config.context_length
        n = min(self._n_tokens, row.n_free, size - len(row.ids) + 1)
        if n < 1:
            return Draft(counts=self.counts)
        if self._cache is None:
            self._cache = self._backend.new_cache(1, min(size, row.room))
        ids, probs = list(row.ids), list[Probs]()
        known = zip(self._ids, ids[:-1], strict=False)
        n_same = next((i for i, (a, b) in enumerate(known) if a != b), min(len(self._ids), len(ids) - 1))
        self._ids = self._ids[:n_same]  # drops rejected tokens; the last token is computed again
        self._cache.truncate(len(self._ids))
        for _ in range(n):
            logits = self._backend.logits([ids[len(self._ids) :]], self._cache, [0], [1])[0][0]
            self._ids = list(ids)
            check_finite(logits)
            if row.options.temperature:
                probs.append(row.sampler.distribution(logits, ids))
                ids.append(draw(probs[-1], row.sampler.generator.random()))
            else:
                ids.append(row.sampler.pick(logits, ids))
        self.counts.proposed += n
        return Draft(ids[len(row.ids) :], probs or None, self.counts)


def check_draft(model: Backend, draft: Backend) -> None:
    """Raise an error if a draft model has another vocabulary.

    Raises:
        OptionError: The vocabularies differ.
    """
    ours, theirs = model.config.vocab_size, draft.config.vocab_size
    if ours != theirs:
        raise OptionError(f"the draft model has {theirs} tokens, the model {ours}; use one with the same vocabulary")
    tokens = [
        None if v is None or v.is_gpt2 else v.tokens for v in (model.tokenizer.vocabulary, draft.tokenizer.vocabulary)
    ]
    if tokens[0] != tokens[1]:
        raise OptionError("the draft model's tokens are not those of the model; use one with the same vocabulary")


def _accept(p: Probs, q: Probs, drafted: int, generator: np.random.Generator) -> int:
    """Return a sample of p: the draft token, sampled from q, with probability min(1, p / q), else one of p - q."""
    if generator.random() * q[drafted] < p[drafted]:
        return drafted
    residual = np.maximum(p - q, 0)
    return draw(residual if residual.any() else p, generator.random())  # p and q may be equal except for rounding
