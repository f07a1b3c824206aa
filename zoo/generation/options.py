"""Generation options: one class, whose defaults the command line and Python share."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal, TypedDict

from zoo.errors import OptionError

PastContext = Literal["slide", "half", "stop"]
Draw = Literal["numpy", "torch"]

_SMALLEST, _LARGEST = 1e-6, 1e6
"""Range of a factor: a logit multiplied or divided by one stays finite."""
_FACTOR = f"from {_SMALLEST:g} to {_LARGEST:g}"


def _is_factor(x: float) -> bool:
    return _SMALLEST <= x <= _LARGEST


_RANGES: dict[str, tuple[type[Any], Callable[[Any], bool], str]] = {
    "max_new_tokens": (Integral, lambda n: n >= 0, "an integer of at least 0"),
    "temperature": (Real, lambda x: x == 0 or _is_factor(x), f"0, or {_FACTOR}"),
    "top_k": (Integral, lambda n: n >= 1, "an integer of at least 1"),
    "top_p": (Real, lambda x: 0 < x <= 1, "above 0 and at most 1"),
    "min_p": (Real, lambda x: 0 <= x <= 1, "from 0 to 1"),
    "repetition_penalty": (Real, _is_factor, _FACTOR),
    "presence_penalty": (Real, lambda x: -100 <= x <= 100, "from -100 to 100"),
    "frequency_penalty": (Real, lambda x: -100 <= x <= 100, "from -100 to 100"),
    "no_repeat_ngram_size": (Integral, lambda n: n >= 0, "an integer of at least 0"),
    "seed": (Integral, lambda n: 0 <= n < 2**63, "an integer from 0 to 2**63 - 1"),
    "top_logprobs": (Integral, lambda n: 0 <= n <= 1000, "an integer from 0 to 1000"),
}
_OPTIONAL = ("top_k", "top_p", "min_p", "seed")
_CHOICES = {"past_context": ("slide", "half", "stop"), "draw": ("numpy", "torch")}


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Options of text generation, shared by `zoo generate` and all functions of zoo.

    Penalties and filters are applied in the order of these attributes. A seed gives the same text in any batch, and
    on both backends where their logits agree.

    Attributes:
        max_new_tokens: Largest number of tokens to generate; 0 generates nothing.
        repetition_penalty: Divides the positive logits of tokens that occur in the prompt or the text and multiplies
            the negative ones, 1e-6 to 1e6; 1 disables it. From CTRL (Keskar et al., 2019).
        presence_penalty: Subtracted from the logits of tokens that were generated before, -100 to 100.
        frequency_penalty: Subtracted from the logit of a token once per earlier occurrence in the text, -100 to 100.
        no_repeat_ngram_size: Excludes tokens that would repeat an n-gram of this size from the prompt or the text; 0
            disables it.
        temperature: Divides the logits, 1e-6 to 1e6; 0 takes the most probable token (the lowest id among equals).
        top_k: Keep exactly this many of the most probable tokens (the lowest ids among equals); None keeps all.
        top_p: Keep the smallest set of most probable tokens that together reach this probability (nucleus sampling),
            above 0 to 1; 1 and None keep all.
        min_p: Keep tokens at least this fraction as probable as the most probable one, 0 to 1; None keeps all.
        seed: Seed of the text's generator, 0 to 2**63 - 1; None draws a new seed.
        stop: One or several strings; the text ends before the first that appears.
        stop_ids: Token ids that end the text without becoming part of it.
        ignore_eos: Whether to treat <|endoftext|> like any other token; otherwise it ends the text.
        past_context: What to do when the text fills the model's context. "slide" predicts each token from the last
            context_length ones, which costs a pass over the whole window per token, because positions are absolute.
            "half" drops the older half of the window and recomputes the rest, once per half window. "stop" ends the
            text.
        top_logprobs: Number of most probable tokens to report with each token.
        draw: "numpy", or "torch" to draw with torch.multinomial from a torch generator, as in the book.

    Raises:
        OptionError: A value is outside its range.
    """

    max_new_tokens: int = 64
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = 0.95
    min_p: float | None = None
    seed: int | None = None
    stop: str | Sequence[str] = ()
    stop_ids: Collection[int] = ()
    ignore_eos: bool = False
    past_context: PastContext = "slide"
    top_logprobs: int = 0
    draw: Draw = "numpy"

    def __post_init__(self) -> None:
        for name, allowed_range in _RANGES.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                require(name, value, *allowed_range)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise OptionError(f"must be {' or '.join(allowed)}, not {getattr(self, name)!r}", option=name)
        if not isinstance(self.ignore_eos, bool):
            raise OptionError(option="ignore_eos", problem=f"must be true or false, not {self.ignore_eos!r}")
        if not isinstance(self.stop, Sequence):
            raise OptionError(option="stop", problem=f"must be a string or several, not {self.stop!r}")
        for stop in self.stop_strings:
            if not isinstance(stop, str) or not stop:
                raise OptionError(option="stop", problem=f"must hold strings that are not empty, not {stop!r}")
        if not isinstance(self.stop_ids, Collection):
            raise OptionError(option="stop_ids", problem=f"must be several token ids, not {self.stop_ids!r}")
        for stop_id in self.stop_ids:
            require("stop_ids", stop_id, Integral, lambda n: n >= 0, "integers of at least 0")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings, also where only one was given."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class Options(TypedDict, total=False):
    """The fields of GenerationOptions as keyword arguments, for annotating functions that pass them on."""

    max_new_tokens: int
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    seed: int | None
    stop: str | Sequence[str]
    stop_ids: Collection[int]
    ignore_eos: bool
    past_context: PastContext
    top_logprobs: int
    draw: Draw


def read_options(function: str, options: Options) -> GenerationOptions:
    """Build the options from a function's keyword arguments.

    Raises:
        OptionError: An option does not exist (the message suggests the closest one) or is outside its range.
    """
    known = [field.name for field in fields(GenerationOptions)]
    for name in options:
        if name not in known:
            letters = {known_name.replace("_", ""): known_name for known_name in known}
            close = difflib.get_close_matches(name.replace("_", ""), letters, n=1, cutoff=0.5)
            hint = f"did you mean {letters[close[0]]}?" if close else f"options: {', '.join(known)}"
            raise OptionError(f"{function} has no option {name!r}; {hint}")
    return GenerationOptions(**options)


def require(name: str, value: object, kind: type[Any], is_valid: Callable[[Any], bool], allowed: str) -> None:
    """Raise an error if an option's value is invalid.

    Raises:
        OptionError: The value has another type or is outside its range.
    """
    if isinstance(value, bool) or not isinstance(value, kind) or not is_valid(value):
        raise OptionError(f"must be {allowed}, not {value!r}", option=name)
