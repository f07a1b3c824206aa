"""Measure one precision: run all contenders alternately and summarise their times."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from zoo.bench.contenders import CONTENDERS
from zoo.bench.options import Settings
from zoo.bench.probe import Machine
from zoo.bench.process import Process, seconds_of_command, seconds_of_peer
from zoo.conversion.run import convert_path
from zoo.errors import OptionError, ZooError
from zoo.models.gpt2.config import GPTConfig
from zoo.text.tokenizer import Tokenizer
from zoo.text.vocabulary import Vocabulary

FIRST_PROMPT = "Every effort moves you"
_SUFFIXES = {"zoo": ".safetensors", "gguf": ".gguf"}

Row = dict[str, Any]
Samples = dict[str, list[float]]


class Turns:
    """The contenders of one precision and their files."""

    def __init__(
        self,
        source: str | Path,
        config: GPTConfig,
        vocabulary: Vocabulary | None,
        settings: Settings,
        precision: str,
        directory: Path,
    ) -> None:
        """Convert the model for each contender; the settings must be resolved."""
        self._config, self._vocabulary, self._settings = config, vocabulary, settings
        self._contexts, self._prefill, self._threads = (
            settings.contexts or (),
            settings.prefill or 1,
            settings.threads or 1,
        )
        self._precision = precision
        self._files: dict[str, Path] = {}
        self.failed: dict[str, str] = {}
        for name in ("zoo", *settings.against):
            kind = CONTENDERS[name]
            if precision in kind.dtypes:
                self._files[name] = directory / f"{name}{_SUFFIXES.get(kind.format, '')}"
                with self._costs_its_row(name):
                    convert_path(source, self._files[name], to=kind.format, dtype=kind.dtypes[precision], verify=False)
        self._samples: dict[str, Samples] = {name: defaultdict(list) for name in self._files}
        self._sizes: dict[str, Row] = {name: {} for name in self._files}

    def run(self, machine: Machine, on_progress: Callable[[str], object]) -> None:
        """Run all contenders alternately. `rows` has what was measured, also after an interruption.

        Raises:
            ZooError: zoo's engine failed. A peer that fails costs its row only: `failed` says why.
        """
        with ExitStack() as stack:
            processes = {}
            for name, path in list(self._files.items()):
                on_progress(f"{self._precision}: {name} loads")
                with self._costs_its_row(name):
                    processes[name] = stack.enter_context(Process(name, path, self._precision, self._threads))
                    self._generate(processes[name], min(self._contexts), 2)  # warm-up
            for turn in range(self._settings.rounds):
                for name in list(self._files):
                    on_progress(f"{self._precision}: round {turn + 1} of {self._settings.rounds}, {name}")
                    with self._costs_its_row(name):
                        self._turn(name, processes[name], machine)
        for turn in range(self._settings.rounds if self._settings.first_token else 0):
            on_progress(f"{self._precision}: first token, round {turn + 1} of {self._settings.rounds}")
            self._first_tokens()

    def rows(self) -> list[Row]:
        """Return a row for each contender that has finished a round."""
        return [self._row(name) for name in self._files if self._sizes[name]]

    @contextmanager
    def _costs_its_row(self, name: str) -> Iterator[None]:
        """Leave out a peer that fails in the block; zoo's own failure is an error."""
        try:
            yield
        except ZooError as error:
            if name == "zoo":
                raise
            self.failed[name] = f"{self._precision}: {error}"
            del self._files[name]

    def _turn(self, name: str, process: Process, machine: Machine) -> None:
        n, batch, samples = self._settings.tokens, self._settings.batch, self._samples[name]
        for context in self._contexts:
            before = machine.bandwidth() if name == "zoo" else 0
            times = self._generate(process, context, n)["seconds"]
            rate = batch * (n - 1) / (times[-1] - times[0])
            samples[f"decode {context}"].append(rate)
            if process.nbytes and process.cached_nbytes:
                read = rate * (process.nbytes / batch + process.cached_nbytes * (context + n / 2))
                samples[f"bandwidth {context}"].append(read / statistics.mean([before, machine.bandwidth()]))
        length = self._prefill
        found = self._generate(process, length, 1)
        samples["prefill"].append(batch * length / found["seconds"][0])
        if name == "zoo":
            operations = prefill_operations(self._config, length) / length
            samples["peak"].append(samples["prefill"][-1] * operations / machine.peak(self._precision))
        sizes = {"weight_bytes": process.nbytes, **{key: found[key] for key in ("peak_memory", "anonymous_memory")}}
        self._sizes[name] = sizes

    def _generate(self, process: Process, length: int, n: int) -> Row:
        ids = np.random.default_rng(length).integers(min(self._config.vocab_size, 50256), size=length).tolist()
        return process.generate([ids] * self._settings.batch, n)

    def _first_tokens(self) -> None:
        ids = Tokenizer(self._vocabulary).encode(FIRST_PROMPT)
        if max(ids) >= self._config.vocab_size:
            raise OptionError(
                "measuring the first token needs a vocabulary, which the checkpoint does not have; add --no-first-token"
            )
        for name, path in list(self._files.items()):
            with self._costs_its_row(name):
                if name == "zoo":
                    seconds = seconds_of_command(path, FIRST_PROMPT, self._threads)
                else:
                    seconds = seconds_of_peer(name, path, self._precision, self._threads, ids)
                self._samples[name]["first"].append(seconds)

    def _row(self, name: str) -> Row:
        found = {key: statistics.median(values) for key, values in self._samples[name].items()}
        row = {
            "contender": name,
            "precision": self._precision,
            "prefill_tokens_per_s": found["prefill"],
            "decode_tokens_per_s": {c: found[f"decode {c}"] for c in self._contexts},
            "first_token_s": found.get("first"),
            **self._sizes[name],
        }
        if name == "zoo":
            row["share_of_peak"] = found["peak"]
            row["share_of_bandwidth"] = {c: found[f"bandwidth {c}"] for c in self._contexts}
        else:
            row["zoo_is_faster"] = {
                "prefill": self._ratio(name, "prefill"),
                "decode": {c: self._ratio(name, f"decode {c}") for c in self._contexts},
                "first_token": 1 / self._ratio(name, "first") if "first" in found else None,
            }
        return row

    def _ratio(self, name: str, key: str) -> float:
        """Return zoo's speed divided by the contender's, the median of the rounds."""
        pairs = zip(self._samples["zoo"][key], self._samples[name][key], strict=False)  # an interrupted round
        return statistics.median(ours / theirs for ours, theirs in pairs)


def prefill_operations(config: GPTConfig, n: int) -> int:
    """Return the floating-point operations of a prefill of n tokens, which predicts one; additions count too."""
    matrices = [shape for name, shape in config.parameter_shapes().items() if len(shape) == 2 and "blocks" in name]
    linear = 2 * n * sum(rows * cols for rows, cols in matrices)
    attention = 2 * n * (n + 1) * config.width * config.n_layers  # q k and p v, each half of a square
    return linear + attention + 2 * config.vocab_size * config.width
