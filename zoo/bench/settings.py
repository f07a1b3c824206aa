"""What a benchmark measures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from zoo.bench.contenders import CONTENDERS, PEERS, PRECISIONS
from zoo.config import GPTConfig
from zoo.errors import OptionError


@dataclass(frozen=True)
class Settings:
    """What is measured, and how often.

    Attributes:
        precisions: of the weights, of "float32", "bfloat16", "float16", "int8", "int4".
        against: peers, of "transformers", "ctranslate2", "llama.cpp", "book"; each in the precisions that it has.
        threads: None takes the cores this process may use.
        contexts: tokens before the ones that are decoded; each is measured.
        prefill: tokens of the prompt whose reading is measured; None takes 512, or the context if that is shorter.
        tokens: decoded in a turn.
        batch: rows decoded at once.
        rounds: in which all take turns.
        first_token: whether whole commands are measured too, from their start to the first token.
    """

    precisions: Sequence[str] = ("float32",)
    against: Sequence[str] = ()
    threads: int | None = None
    contexts: Sequence[int] = (16,)
    prefill: int | None = None
    tokens: int = 24
    batch: int = 1
    rounds: int = 5
    first_token: bool = True

    def check(self, config: GPTConfig) -> None:
        """Refuse what cannot be measured with a model.

        Raises:
            OptionError: a value is out of its range, or a peer is not known or not installed.
        """
        _check_known("precision", self.precisions, PRECISIONS)
        _check_known("peer", self.against, PEERS)
        if self.tokens < 2 or min(self.batch, self.rounds, self.prompt_length(config), *self.contexts) < 1:
            raise OptionError("decoding is timed from the second token on: tokens is at least 2, all else at least 1")
        if (
            longest := max(self.prompt_length(config), *(c + self.tokens - 1 for c in self.contexts))
        ) > config.context_length:
            raise OptionError(f"{longest} tokens do not fit the model's context of {config.context_length}")
        for peer in self.against:
            if find_spec(CONTENDERS[peer].package) is None:
                raise OptionError(f"{peer} needs the package {CONTENDERS[peer].package}, which is not installed here")

    def prompt_length(self, config: GPTConfig) -> int:
        """Return how many tokens of a prompt are read with a model."""
        return min(512, config.context_length) if self.prefill is None else self.prefill


def _check_known(kind: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise OptionError(f"no {kind} is called {name!r}; known are {', '.join(known)}")
