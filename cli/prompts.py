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

import click

from zoo.cli._show import show_json

if TYPE_CHECKING:
    from zoo.engine import Engine
    from zoo.generation.options import Request, Token
    from zoo.generation.prompt_file import PromptLine
    from zoo.generation.results_file import Generate
    from zoo.models.gpt2.model import GPTModel

Count = Callable[[int, int], None]
"""Takes how many texts and tokens more are done."""


def continue_file(
    prompts: Path,
    out: Path,
    model: Engine | GPTModel,
    request: Request,
    settings: dict[str, Any],
    *,
    batch: int,
    as_json: bool,
) -> None:
    """Write what follows every prompt of a file to another, or go on with that; all prompts are checked before.

    Args:
        prompts: the file, or "-".
        out: the other.
        model: whichever runs.
        request: what is asked for prompts without options of their own.
        settings: what else decides the texts.
        batch: texts that share a pass over the weights.
        as_json: whether the summary is JSON.
    """
    from zoo.generation.results_file import ResultFile, make_results

    read, generate = _prepare(model, prompts, request, batch)
    total = sum(1 for _ in read()) if prompts.is_file() else None  # a pipe is read once, and checked as it comes
    with ResultFile(out, settings | dataclasses.asdict(request)) as file:
        lines = read()
        kept, made, tokens, started = file.keep(lines), 0, 0, time.monotonic()
        try:
            with _progress(total, kept) as count:
                for result in make_results(lines, partial(_counted, generate, count)):
                    file.write(result)
                    made, tokens = made + 1, tokens + len(result["tokens"])
        except KeyboardInterrupt:
            click.echo(f"{out} has {kept + made:,} texts; the same command goes on from there", err=True)
            raise
        seconds = time.monotonic() - started
    speed = tokens / seconds
    if as_json:
        show_json({"out": str(out), "kept": kept, "made": made, "tokens": tokens, "tokens_per_s": speed})
    else:
        before = f", {kept:,} of them from before" if kept else ""
        rate = f"; {tokens:,} tokens in {seconds:.1f} s, {speed:,.1f} a second" if made else ""
        click.echo(f"{out}: {kept + made:,} texts{before}{rate}")


def _prepare(
    model: Engine | GPTModel, prompts: Path, request: Request, batch: int
) -> tuple[Callable[[], Iterator[PromptLine]], Generate]:
    """What reads the prompts for a model, and what continues them."""
    from zoo.engine import Engine
    from zoo.generation.prompt_file import read_prompts
    from zoo.text.tokenizer import Tokenizer

    generate: Generate
    if isinstance(model, Engine):
        from zoo.engine.generation import generate_many as run_native

        tokenizer, generate = Tokenizer(model.vocabulary), partial(run_native, model, batch=batch)
    else:
        from zoo.generation.api import generate_many as run_torch

        tokenizer, generate = model.tokenizer, partial(run_torch, model, batch=batch)
    return partial(read_prompts, prompts, request, model.config, tokenizer), generate


def _counted(generate: Generate, count: Count, items: Iterator[Any]) -> Iterator[tuple[int, Token]]:
    for i, token in generate(items):
        yield i, token
        count(bool(token.finish_reason), 1)


@contextmanager
def _progress(total: int | None, kept: int) -> Iterator[Count]:
    """Show texts done, tokens a second and time left on stderr, if it is a terminal."""
    if not sys.stderr.isatty():
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
