"""Text from a model: `generate` streams it token by token, `complete` gives it whole, both also for a batch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from numbers import Integral
from operator import index
from typing import TypedDict, Unpack

from zoo.decode import PastContext, Request, Token, decode
from zoo.errors import OptionError
from zoo.model import GPTModel
from zoo.sampler import require

Prompt = str | Sequence[int]


class Options(TypedDict, total=False):
    """The keyword arguments of generate, for annotating functions that pass them on."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    stop_ids: Collection[int]
    ignore_eos: bool
    past_context: PastContext
