"""zoo generate of one prompt: the texts on stdout or in a file, notes and statistics on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from zoo.cli._progress import counter
from zoo.cli._show import note, say, show_json
from zoo.cli.generate_model import Loaded, load_model

if TYPE_CHECKING:
    from zoo.cli.generate import Arguments
    from zoo.generation.options import GenerationOptions
    from zoo.generation.row import Token
    from zoo.generation.speculative import Counts


def print_texts(given: Arguments, options: GenerationOptions, prompt: str | list[int]) -> None:
    """Continue a prompt, and print the texts in the form that was asked for."""
    from zoo.generation.row import prompt_ids

    loaded = load_model(given)
    config = loaded.model.config
    ids = prompt_ids(config, loaded.tokenizer, prompt, options)
    if len(ids) > config.context_length:
        note(f"the prompt has {len(ids)} tokens; the model sees only the last {config.context_length} (its context)")
    counts: list[Counts] = []
    watch = Watch(config.context_length, len(ids), options, given.n_samples)
    tokens = watch.follow(_generate(given, options, loaded, ids, counts))
    if given.as_json or given.out or given.n_samples > 1:  # a text that is not shown as it is made
        tokens = _counted(tokens, given.n_samples * options.max_new_tokens)
    as_ids = given.ids is not None and bool(loaded.tokenizer.problem)
    shown = prompt if isinstance(prompt, str) else "" if as_ids else loaded.tokenizer.decode(prompt)
    before = "" if given.no_prompt else ",".join(map(str, ids)) + "," if as_ids else shown
    if given.as_json:
        _write(given, show_json, _samples(tokens, given, prompt, loaded, counts))
    elif given.n_samples == 1 and not given.out:
        click.echo(before, nl=False)
        for token in (token for _, token in tokens):
            click.echo(_text(token, as_ids), nl=False)
        click.echo()
    else:
        texts = [before] * given.n_samples
        for i, token in tokens:
            texts[i] += _text(token, as_ids)
        heads = [f"--- sample {i + 1}\n" if given.n_samples > 1 else "" for i in range(given.n_samples)]
        _write(given, click.echo, "\n".join(head + text for head, text in zip(heads, texts, strict=True)))
    if counts and not given.as_json:
        say(_summary(counts), err=True)
    if given.stats:
        say(watch.summary(), err=True)


class Watch:
    """Follows tokens as they are generated: notes about the context, and the time that they take."""

    def __init__(self, context: int, n_prompt: int, options: GenerationOptions, n_texts: int) -> None:
        self._left = [context - min(n_prompt, context)] * n_texts
        self._slides = options.past_context == "slide"
        self._context = context
        self._n = 0
        self._started = self._first = self._last = time.perf_counter()

    def follow(self, tokens: Iterator[tuple[int, Token]]) -> Iterator[tuple[int, Token]]:
        """Yield the tokens."""
        self._started = time.perf_counter()
        for i, token in tokens:
            self._n += 1
            self._last = time.perf_counter()
            if self._n <= len(self._left):
                self._first = self._last
            yield i, token
            if self._slides and self._left[i] == 0 and not token.finish_reason:
                self._slides = False
                note(
                    f"the context of {self._context} tokens is full; each further token now recomputes it. "
                    "--past-context half is faster"
                )
            self._left[i] -= 1

    def summary(self) -> str:
        """Return the number of tokens, the time and the speed after the first token of each text."""
        text = (
            f"{self._n} tokens in {self._last - self._started:.2f} s; first after {self._first - self._started:.3f} s"
        )
        more, seconds = self._n - len(self._left), self._last - self._first
        return f"{text}, then {more / seconds:.1f} tokens/s" if more > 0 and seconds > 0 else text


def _generate(
    given: Arguments, options: GenerationOptions, loaded: Loaded, ids: list[int], counts: list[Counts]
) -> Iterator[tuple[int, Token]]:
    from zoo.api.text import generate_batch

    return generate_batch(
        loaded.model,
        [ids],
        n_samples=given.n_samples,
        backend=loaded.backend,
        draft=loaded.draft,
        draft_tokens=given.speculate_tokens,
        counts=counts,
        **vars(options),
    )


def _counted(tokens: Iterator[tuple[int, Token]], total: int) -> Iterator[tuple[int, Token]]:
    """Show how many tokens are made on stderr, if it is a terminal."""
    with counter("tokens") as on_progress:
        for done, token in enumerate(tokens, 1):
            yield token
            if on_progress:
                on_progress(done, total)


def _text(token: Token, as_ids: bool) -> str:
    if not as_ids:
        return token.text
    return f"{token.id}" if token.finish_reason else f"{token.id},"


def _write(given: Arguments, show: Any, value: Any) -> None:
    """Print a result, or write it to --out."""
    import json

    from zoo.core.output import atomic_output

    if not given.out:
        show(value)
        return
    text = value if isinstance(value, str) else json.dumps(value, indent=2)
    with atomic_output(given.out, force=given.force) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8", errors="surrogatepass")


def _samples(
    tokens: Iterator[tuple[int, Token]], given: Arguments, prompt: str | list[int], loaded: Loaded, counts: list[Counts]
) -> list[dict[str, Any]]:
    samples: list[dict[str, Any]] = [
        {"prompt": prompt, "text": "", "ids": [], "logprobs": [], "finish_reason": None} for _ in range(given.n_samples)
    ]
    for i, token in tokens:
        sample = samples[i]
        sample["text"] += token.text
        sample["ids"].append(token.id)
        sample["logprobs"].append(token.logprob)
        sample["finish_reason"] = token.finish_reason
        if token.top_logprobs:
            sample.setdefault("top_logprobs", []).append(
                [{"id": id_, "text": _decode(loaded, id_), "logprob": each} for id_, each in token.top_logprobs]
            )
    for sample, count in zip(samples, counts, strict=False):  # there are none without speculation
        sample["speculation"] = {**asdict(count), "acceptance_rate": count.rate}
    return samples


def _decode(loaded: Loaded, token: int) -> str:
    from zoo.errors import OptionError

    try:
        return str(loaded.tokenizer.decode([token]))
    except OptionError:  # not in the vocabulary
        return "\N{REPLACEMENT CHARACTER}"


def _summary(counts: list[Counts]) -> str:
    accepted, proposed, tokens, passes = (
        sum(getattr(each, name) for each in counts) for name in ("accepted", "proposed", "tokens", "passes")
    )
    share = f" ({accepted / proposed:.0%})" if proposed else ""
    return f"{accepted} of {proposed} draft tokens accepted{share}, {tokens} tokens in {passes} passes"
