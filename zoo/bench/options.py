"""The settings of a benchmark."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

from zoo.bench.contenders import CONTENDERS, PEERS, PRECISIONS
from zoo.engine.backend import default_threads
from zoo.errors import OptionError
from zoo.models.gpt2.config import GPTConfig

_CONTEXTS = (16, 256, 1000)


@dataclass(frozen=True)
class Settings:
    """What to measure and how often.

    Attributes:
        precisions: Precisions of the weights, from "float32", "bfloat16", "float16", "int8", "int4".
        against: Libraries to compare with, from "transformers", "ctranslate2", "llama.cpp", "book". Each runs in the
            precisions that it supports, if it is installed.
        threads: Number of threads; None means the cores that this process may use.
        contexts: Numbers of tokens before the decoded ones; each is measured. None means those of 16, 256 and 1000 that
            fit the model.
        prefill: Length of the prompt for measuring prefill; None means 512, or the context if that is shorter.
        tokens: Tokens to decode per round.
        batch: Rows to decode at once.
        rounds: Number of rounds, in which all contenders run alternately.
        busy: Number of cores to keep busy with another computation.
        first_token: Whether to measure complete commands too, from their start to the first token.
    """

    precisions: Sequence[str] = ("float32",)
    against: Sequence[str] = ()
    threads: int | None = None
    contexts: Sequence[int] | None = None
    prefill: int | None = None
    tokens: int = 24
    batch: int = 1
    rounds: int = 5
    busy: int = 0
    first_token: bool = True

    def resolve(self, config: GPTConfig) -> Settings:
        """Return the settings with every None resolved, without the libraries that cannot take part.

        Raises:
            OptionError: A value is out of range for this model.
        """
        found = replace(
            self,
            against=[peer for peer in self.against if peer not in self.left_out()],
            threads=self.threads or default_threads(),
            contexts=self._contexts(config),
            prefill=min(512, config.context_length) if self.prefill is None else self.prefill,
        )
        found._check(config)
        return found

    def left_out(self) -> dict[str, str]:
        """Return the requested libraries that cannot take part and the reasons.

        Raises:
            OptionError: A name is unknown.
        """
        _check_known("peer", self.against, PEERS)
        found = {}
        for peer in self.against:
            kind = CONTENDERS[peer]
            if not any(map(find_spec, kind.packages)):
                found[peer] = f"the package {kind.packages[0]} is not installed (pip install {kind.distribution})"
            elif self.batch > 1 and not kind.batches:
                found[peer] = "it continues one prompt at a time"
        return found

    def _contexts(self, config: GPTConfig) -> Sequence[int]:
        if self.contexts is None:
            fitting = [c for c in _CONTEXTS if c + self.tokens - 1 <= config.context_length]
            return fitting or [max(1, config.context_length - self.tokens + 1)]
        return self.contexts

    def _check(self, config: GPTConfig) -> None:
        _check_known("precision", self.precisions, PRECISIONS)
        if not self.precisions or not self.contexts:
            raise OptionError("give at least one precision and one context")
        assert self.prefill is not None
        if self.busy > (cores := os.cpu_count() or 1):
            raise OptionError(f"busy is {self.busy}, but this machine has {cores} cores")
        if self.busy < 0 or self.tokens < 2 or min(self.batch, self.rounds, self.prefill, *self.contexts) < 1:
            raise OptionError(
                "tokens must be at least 2, because timing starts at the second token; all other numbers at least 1"
            )
        longest = max(self.prefill, *(c + self.tokens - 1 for c in self.contexts))
        if longest > config.context_length:
            raise OptionError(f"{longest} tokens do not fit the model's context of {config.context_length}")


def _check_known(kind: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise OptionError(f"unknown {kind} {name!r}; known: {', '.join(known)}")
