"""Read prompts from a file: JSON lines, which may have their own options, or text with one prompt per line."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from zoo.errors import FormatError, OptionError, UnknownName
from zoo.generation.options import GenerationOptions
from zoo.generation.row import prompt_ids
from zoo.models.gpt2.config import GPTConfig
from zoo.text.tokenizer import Tokenizer

OPTIONS = tuple(field.name for field in dataclasses.fields(GenerationOptions))
"""Keys that a line may have in addition to prompt and id."""


@dataclass(frozen=True, slots=True)
class PromptLine:
    """One prompt of a file.

    Attributes:
        number: Number of its line, from 1.
        fields: id (by default the line's number), prompt, and the line's own options.
        ids: Token ids of the prompt.
        options: The common options, overridden by the line's own.
    """

    number: int
    fields: dict[str, Any]
    ids: list[int]
    options: GenerationOptions


def read_prompts(
    path: Path, options: GenerationOptions, config: GPTConfig, tokenizer: Tokenizer
) -> Iterator[PromptLine]:
    """Yield the prompts of a file, one line in memory at a time. Blank lines are skipped.

    Args:
        path: .jsonl has one object per line, with "prompt" (a text or a list of token ids) and optionally "id" (a
            string or an integer) and any of OPTIONS. Any other file is text with one prompt per line. "-" is stdin:
            JSON lines if it begins with "{", else text.
        options: Options that a line does not set itself.
        config: Config of the model that continues the prompts.
        tokenizer: Tokenizer of the model.

    Raises:
        FormatError: The file cannot be read or is not UTF-8; a line is not JSON, has an unknown key or an option
            outside its range, or this model cannot continue its prompt. The message names the line.
    """
    stdin = str(path) == "-"
    if stdin and sys.stdin is None:
        raise FormatError("stdin", "is closed; give a file, or pipe the prompts in")
    path = Path("stdin") if stdin else path
    try:
        with nullcontext(sys.stdin) if stdin else path.open(encoding="utf-8-sig") as file:
            first = file.readline()
            is_json = first.startswith("{") if stdin else path.suffix == ".jsonl"
            for number, text in enumerate(chain([first], file), start=1):
                if text.strip():
                    yield _line(path, number, text.rstrip("\n"), is_json, options, config, tokenizer)
    except UnicodeDecodeError as error:
        raise FormatError(path, "is not text in UTF-8; convert it") from error
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from error


def _line(
    path: Path,
    number: int,
    text: str,
    is_json: bool,
    options: GenerationOptions,
    config: GPTConfig,
    tokenizer: Tokenizer,
) -> PromptLine:
    try:
        found = _parse(text) if is_json else {"prompt": text}
        own: dict[str, Any] = {key: value for key, value in found.items() if key in OPTIONS}
        asked = dataclasses.replace(options, **own) if own else options
        if not asked.max_new_tokens:
            raise OptionError("max_new_tokens must be at least 1, or there is nothing to do")
        ids = prompt_ids(config, tokenizer, found["prompt"], asked)
    except (OptionError, UnknownName) as error:
        raise FormatError(path, f"line {number}: {error}") from error
    return PromptLine(number, {"id": found.get("id", number), "prompt": found["prompt"], **own}, ids, asked)


def _parse(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"this is not JSON ({error})") from error
    if not isinstance(found, dict) or "prompt" not in found:
        raise OptionError('a line is an object with a "prompt", such as {"prompt": "Every effort"}')
    for key in found:
        if key not in ("id", "prompt", *OPTIONS):
            raise UnknownName("key", key, ("id", "prompt", *OPTIONS))
    prompt, name = found["prompt"], found.get("id", 0)
    if not isinstance(prompt, str) and not (isinstance(prompt, list) and all(type(i) is int for i in prompt)):
        raise OptionError(f"the prompt must be a text or a list of token ids, not {prompt!r:.60}")
    if not isinstance(name, str) and type(name) is not int:
        raise OptionError(f"the id must be a string or an integer, not {name!r:.60}")
    return found
