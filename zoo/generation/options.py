"""What may be asked of a generation, and the text that comes of it; without torch, so that the engine needs none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from operator import index
from typing import Any, Literal

from zoo.errors import OptionError
from zoo.models.gpt2.config import GPTConfig
from zoo.text.stop import TextStream
from zoo.text.tokenizer import Tokenizer

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


FinishReason = Literal["length", "eos", "stop", "context"]
PastContext = Literal["slide", "stop"]
Prompt = str | Sequence[int]


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    Attributes:
        id: the token.
        text: that it settles; "" while a character is incomplete or a stop string may be coming.
        logprob: natural logarithm of its probability under the model alone, before penalty, temperature and filters.
        finish_reason: None, but in the last token of a text: "length" (max_new_tokens are there), "eos", "stop" (a
            stop string or id) or "context" (the context is full, and past_context is "stop").
    """

    id: int
    text: str
    logprob: float
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, kw_only=True)
class Request(Sampling):
    """Everything that may be asked of a generation; zoo.generate describes the fields.

    Raises:
        OptionError: a value is outside its range.
    """

    max_new_tokens: int = 64
    stop: str | Sequence[str] = ()
    stop_ids: Collection[int] = ()
    ignore_eos: bool = False
    past_context: PastContext = "slide"

    def __post_init__(self) -> None:
        super().__post_init__()
        require("max_new_tokens", self.max_new_tokens, Integral, lambda n: n >= 0, "a whole number from 0 on")
        if not isinstance(self.stop, Sequence):
            raise OptionError(f"stop must be a string or several, not {self.stop!r}")
        if not isinstance(self.stop_ids, Collection):
            raise OptionError(f"stop_ids must be several token ids, not {self.stop_ids!r}")
        if not isinstance(self.ignore_eos, bool):
            raise OptionError(f"ignore_eos must be true or false, not {self.ignore_eos!r}")
        for stop in self.stop_strings:
            if not isinstance(stop, str) or not stop:
                raise OptionError(f"stop must hold strings that are not empty, not {stop!r}")
        for stop_id in self.stop_ids:
            require("stop_ids", stop_id, Integral, lambda n: n >= 0, "whole numbers from 0 on")
        if self.past_context not in ("slide", "stop"):
            raise OptionError(f"past_context must be slide or stop, not {self.past_context!r}")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings, also where only one was given."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class Row:
    """One text that is being continued.

    Attributes:
        index: its number among the texts asked for.
        request: what is asked of it.
        ids: the prompt's and the new tokens.
        generator: draws its tokens and nobody else's.
        finished: whether it has got its last token.
        n_wanted: the most ids that it can come to have.
    """

    def __init__(
        self,
        config: GPTConfig,
        tokenizer: Tokenizer,
        request: Request,
        index: int,
        prompt: Sequence[int],
        generator: Any,
    ) -> None:
        self.index, self.request = index, request
        self.ids = list(prompt)
        self.generator = generator
        self.finished = False
        self.n_wanted = len(prompt) + request.max_new_tokens
        self._n_longest = config.context_length if request.past_context == "stop" else self.n_wanted
        self._eos_ids = () if request.ignore_eos else tokenizer.eos_ids
        self._stop_ids = frozenset(request.stop_ids)
        self._stream = TextStream(tokenizer, request.stop_strings)

    def take(self, token_id: int, logprob: float) -> Token:
        """Add a token and say what it means for the text."""
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
        return Token(token_id, text, logprob, reason)

    def _limit(self) -> FinishReason | None:
        if self._stream.stopped:
            return "stop"
        if len(self.ids) >= self.n_wanted:
            return "length"
        return "context" if len(self.ids) > self._n_longest else None


def prompt_ids(config: GPTConfig, tokenizer: Tokenizer, prompt: Prompt, request: Request) -> list[int]:
    """Return the ids of a prompt that this model can continue."""
    n_known, longest = config.vocab_size, config.context_length
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else [index(i) for i in prompt]
    if not ids:
        if tokenizer.start_id is None or tokenizer.start_id >= n_known:
            raise OptionError("the prompt is empty and the model has no <|endoftext|> to start from; give a prompt")
        ids = [tokenizer.start_id]
    for i in ids:
        if not 0 <= i < n_known:
            raise OptionError(f"the prompt has token id {i}, but the model's ids are 0 to {n_known - 1}")
    if request.past_context == "stop" and len(ids) > longest:
        hint = 'shorten it, or let past_context be "slide"'
        raise OptionError(f"the prompt has {len(ids)} tokens, but the context only {longest}; {hint}")
    return ids
