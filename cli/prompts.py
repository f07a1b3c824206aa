"""zoo generate --prompts: a file of prompts to a file of texts."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli._show import is_terminal, say, show_json

if TYPE_CHECKING:
    from zoo.cli.generate import Arguments
    from zoo.cli.generate_model import Loaded
    from zoo.generation.options import GenerationOptions
    from zoo.generation.prompt_file import PromptLine
    from zoo.generation.results_file import Generate, ResultFile
    from zoo.generation.row import Token

Count = Callable[[int, int], None]
"""Called with the number of texts and of tokens that were added."""


def continue_file(given: Arguments, options: GenerationOptions) -> None:
    """Write the texts of all prompts of a file to another, or resume that; all prompts are checked first.

    Args:
        given: --prompts, --out, the model and the form of the summary.
        options: for prompts without options of their own.
    """
    from zoo.cli.generate_model import load_model
    from zoo.generation.prompt_file import read_prompts
    from zoo.generation.results_file import ResultFile

    assert given.prompts and given.out
    loaded = load_model(given)
    read = partial(read_prompts, given.prompts, options, loaded.model.config, loaded.tokenizer)
    is_file = str(given.prompts) != "-" and given.prompts.is_file()
    total = sum(1 for _ in read()) if is_file else None  # a pipe is read once, and checked as it comes
    with ResultFile(given.out, _settings(given, loaded) | dataclasses.asdict(options)) as file:
        lines = read()
        done = Done(given.out, file.keep(lines))
        try:
            _generate(loaded, file, lines, done, given.batch or 16, total)
        except KeyboardInterrupt:
            say(f"{given.out} has {done.kept + done.made:,} texts; repeat the command to resume", err=True)
            raise
    done.show(as_json=given.as_json)


@dataclasses.dataclass
class Done:
    """What a run has made of a file."""

    out: Path
    kept: int
    made: int = 0
    tokens: int = 0
    started: float = dataclasses.field(default_factory=time.monotonic)

    def show(self, *, as_json: bool) -> None:
        """Print the summary."""
        seconds = time.monotonic() - self.started
        speed = self.tokens / seconds
        if as_json:
            fields = {"kept": self.kept, "made": self.made, "tokens": self.tokens, "tokens_per_s": speed}
            show_json({"out": str(self.out), **fields})
            return
        before = f", {self.kept:,} of them from before" if self.kept else ""
        rate = f"; {self.tokens:,} tokens in {seconds:.1f} s, {speed:,.1f} per second" if self.made else ""
        say(f"{self.out}: {self.kept + self.made:,} texts{before}{rate}")


def _generate(
    loaded: Loaded, file: ResultFile, lines: Iterator[PromptLine], done: Done, batch: int, total: int | None
) -> None:
    from zoo.api.text import generate_many
    from zoo.generation.results_file import make_results

    generate = partial(generate_many, loaded.model, batch=batch, backend=loaded.backend)
    with _progress(total, done.kept) as count:
        for result in make_results(lines, partial(_counted, generate, count)):
            file.write(result)
            done.made, done.tokens = done.made + 1, done.tokens + len(result["ids"])


def _settings(given: Arguments, loaded: Loaded) -> dict[str, Any]:
    """Return what decides the texts beside the options."""
    from zoo.api.checkpoints import content_hash

    return {
        "model": content_hash(loaded.path, format=given.format, size=given.size),
        "engine": "native" if loaded.backend == "engine" else "torch",
        "dtype": given.dtype,
        "quantize": given.quantize,
        "int8_prefill": given.int8_prefill,
    }


def _counted(generate: Generate, count: Count, items: Iterator[Any]) -> Iterator[tuple[int, Token]]:
    for i, token in generate(items):
        yield i, token
        count(bool(token.finish_reason), 1)


@contextmanager
def _progress(total: int | None, kept: int) -> Iterator[Count]:
    """Show texts done, tokens a second and time left on stderr, if it is a terminal."""
    if not is_terminal(sys.stderr):
        yield lambda _texts, _tokens: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, completed=kept)
        n_tokens, started = 0, time.monotonic()

        def count(texts: int, tokens: int) -> None:
            nonlocal n_tokens
            n_tokens += tokens
            speed = n_tokens / (time.monotonic() - started)
            bar.update(task, advance=texts, description=f"{speed:,.0f} tokens/s")

        yield count
