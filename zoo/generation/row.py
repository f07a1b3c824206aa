"""Per-sequence state: the tokens of a text, its window in the KV cache, and why it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Literal

from zoo.errors import OptionError
from zoo.generation.options import GenerationOptions
from zoo.generation.sampler import Sampler
from zoo.models.gpt2.config import GPTConfig
from zoo.text.stop import TextStream
from zoo.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from zoo.generation.speculative import Drafter

FinishReason = Literal["length", "eos", "stop", "context"]
Prompt = str | Sequence[int]

_ROOM = 64
"""Caches grow by multiples of this many tokens."""


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    Attributes:
        id: Id of the token.
        text: Text that the token completes; "" while a character is incomplete or a stop string may follow.
        logprob: Natural logarithm of the model's probability, before penalties, temperature and filters.
        finish_reason: None except in the last token of a text: "length" (max_new_tokens), "eos", "stop" (a stop
            string or id) or "context" (the context is full, and past_context is "stop").
        top_logprobs: The top_logprobs most probable tokens as (id, logprob), best first.
    """

    id: int
    text: str
    logprob: float
    finish_reason: FinishReason | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class Row:
    """One text that is being continued.

    Attributes:
        index: Number of the text in the call.
        options: Generation options of the text.
        ids: Token ids of the prompt and the text.
        sampler: Chooses the tokens.
        drafter: Proposes draft tokens; None without speculation.
        start: First token of the window that the model sees.
        n_cached: Number of the window's tokens in the KV cache.
        finished: Whether the text has ended.
        room: Number of tokens that the cache must have room for.
    """

    def __init__(
        self, config: GPTConfig, tokenizer: Tokenizer, options: GenerationOptions, index: int, prompt: Sequence[int]
    ) -> None:
        self.index, self.options = index, options
        self.ids = list(prompt)
        self.sampler = Sampler(options, len(prompt))
        self.drafter: Drafter | None = None
        self.start = self.n_cached = 0
        self.finished = False
        self._size = config.context_length
        self._longest = len(prompt) + options.max_new_tokens
        self.room = min(self._size, -(-self._longest // _ROOM) * _ROOM)
        self._eos_ids = () if options.ignore_eos else tokenizer.eos_ids
        self._stop_ids = frozenset(options.stop_ids)
        self._stream = TextStream(tokenizer, options.stop_strings)

    def slide(self) -> bool:
        """Move the window if the text has outgrown it; return whether it moved, which empties its cache."""
        if len(self.ids) - self.start <= self._size:
            return False
        kept = self._size if self.options.past_context != "half" else max(1, self._size // 2)
        self.start, self.n_cached = len(self.ids) - kept, 0
        return True

    @property
    def n_free(self) -> int:
        """Number of draft tokens that fit into the window and the text; a pass generates one more than that."""
        return min(self._size - len(self.ids) + self.start, self._longest - len(self.ids) - 1)

    def take(self, token_id: int, logprob: float, top_logprobs: tuple[tuple[int, float], ...] = ()) -> Token:
        """Append a token and return it with its text and its finish reason."""
        self.ids.append(token_id)
        reason: FinishReason | None = None
        text = ""
        if token_id in self._eos_ids:
            reason = "eos"
        elif token_id in self._stop_ids:
            reason = "stop"
        else:
            text = self._stream.feed(token_id)
            reason = self._limit()
        if reason:
            text += self._stream.finish()
            self.finished = True
        return Token(token_id, text, logprob, reason, top_logprobs)

    def _limit(self) -> FinishReason | None:
        if self._stream.stopped:
            return "stop"
        if len(self.ids) >= self._longest:
            return "length"
        return "context" if self.options.past_context == "stop" and len(self.ids) > self._size else None


def prompt_ids(config: GPTConfig, tokenizer: Tokenizer, prompt: Prompt, options: GenerationOptions) -> list[int]:
    """Return the ids of a prompt that this model can continue.

    Raises:
        OptionError: The prompt has ids outside the vocabulary, is empty although the model has no <|endoftext|>, or is
            longer than the context although past_context is "stop".
    """
    n_known, longest = config.vocab_size, config.context_length
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else [index(i) for i in prompt]
    if not ids:
        if tokenizer.start_id is None or tokenizer.start_id >= n_known:
            raise OptionError("the prompt is empty and the model has no <|endoftext|> to start from; give a prompt")
        ids = [tokenizer.start_id]
    for i in ids:
        if not 0 <= i < n_known:
            raise OptionError(f"the prompt has token id {i}, but the model's ids are 0 to {n_known - 1}")
    if options.past_context == "stop" and len(ids) > longest:
        raise OptionError(
            f"the prompt has {len(ids)} tokens, but the context only {longest}; shorten it, or set past_context to "
            '"slide" or "half"'
        )
    return ids
