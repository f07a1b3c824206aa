"""zoo generate."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import click

from zoo.cli._show import note
from zoo.cli.generate_options import generate_options
from zoo.errors import OptionError
from zoo.generation.options import GenerationOptions
from zoo.models.registry import Size


@dataclass(frozen=True)
class Arguments:
    """What `zoo generate` was called with, beside GenerationOptions."""

    prompt: str | None
    file: str | None
    ids: tuple[int, ...] | None
    prompts: Path | None
    batch: int | None
    model: str | None
    format: str | None
    size: Size | None
    dtype: str | None
    quantize: str | None
    int8_prefill: bool
    threads: int | None
    engine: str
    device: str
    n_samples: int
    speculate: Literal["ngram"] | None
    draft: str | None
    speculate_tokens: int | None
    out: Path | None
    force: bool
    no_prompt: bool
    stats: bool
    as_json: bool


@click.command()
@generate_options
def generate(**arguments: Any) -> None:
    """Continue PROMPT, and print it with the new text as it is generated.

    Without PROMPT, or with -, the prompt is read from stdin if something is piped in.

    --prompts continues many: a text file with one prompt per line, or .jsonl with {"prompt": ..., "id": ...,
    "temperature": ...} per line; - is stdin. Their texts are written to --out, a .jsonl file. Repeat the command to
    resume it.

    \b
    Examples:
      zoo generate --model gpt2m.safetensors "Every effort moves you"
      zoo generate -m models/124M --temperature 0 -n 20 "The capital of France is"
      zoo generate -m gpt2-xl.safetensors --draft gpt2.safetensors --quantize int8 "Once"
      echo "Once upon a time" | zoo generate -m gpt2m.safetensors --samples 3 --seed 1
      zoo generate -m gpt2m.safetensors --prompts prompts.jsonl --out texts.jsonl --batch 32
    """
    names = {field.name for field in fields(GenerationOptions)}
    options = GenerationOptions(**{name: arguments.pop(name) for name in names & arguments.keys()})
    given = Arguments(**arguments)
    _check(given, options)
    if given.prompts:
        from zoo.cli.prompts import continue_file

        continue_file(given, options)
        return
    from zoo.cli.generate_text import print_texts

    print_texts(given, options, _read_prompt(given))


def _check(given: Arguments, options: GenerationOptions) -> None:
    """Refuse options that contradict each other, before anything is loaded."""
    texts = [name for name in ("prompt", "file", "ids") if getattr(given, name) is not None]
    if len(texts) > 1:
        raise click.UsageError("Give one of PROMPT, --file and --ids.")
    if given.speculate and given.draft:
        raise click.UsageError("Give one of --speculate and --draft.")
    if given.speculate_tokens and not (given.speculate or given.draft):
        raise click.UsageError("--speculate-tokens needs --speculate or --draft.")
    if options.top_logprobs and not given.as_json:
        raise click.UsageError("--top-logprobs needs --json.")
    if given.prompts is None:
        if given.batch:
            raise click.UsageError("--batch needs --prompts.")
        if given.out:
            from zoo.core.output import check_output

            check_output(given.out, force=given.force)
    elif given.out is None:
        raise click.UsageError("Missing option '--out', which --prompts needs.")
    elif texts or given.n_samples > 1 or given.speculate or given.draft or given.no_prompt or options.top_logprobs:
        raise click.UsageError(
            "PROMPT, --file, --ids, --samples, --speculate, --draft, --no-prompt and --top-logprobs do not go with "
            "--prompts."
        )


def _read_prompt(given: Arguments) -> str | list[int]:
    """Return the prompt from wherever it is."""
    if given.ids is not None:
        return list(given.ids)
    if given.file is not None and given.file != "-":
        return _decode(_read_file(Path(given.file)), given.file)
    if given.prompt not in (None, "-") and given.file is None:
        return given.prompt or ""
    if sys.stdin is None:
        if given.prompt == "-" or given.file == "-":
            raise OptionError("stdin is closed; give the prompt as an argument, or with --file")
        return ""
    if given.prompt is None and given.file is None and sys.stdin.isatty():
        note("no prompt is given; the text starts from <|endoftext|>")
        return ""
    return _decode(sys.stdin.buffer.read(), "stdin")


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OptionError(f"the prompt {path} cannot be read: {error.strerror or error}") from error


def _decode(data: bytes, name: str) -> str:
    """Return a prompt without the line end of a file."""
    try:
        return data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise OptionError(f"the prompt in {name} is not text in UTF-8; convert it") from error
