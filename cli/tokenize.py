"""zoo tokenize."""

from __future__ import annotations

import sys

import click

from zoo.cli._options import from_option, json_option, size_option
from zoo.cli._params import CHECKPOINT
from zoo.cli._progress import resolve
from zoo.cli._show import say, show_json
from zoo.errors import FormatError
from zoo.models.gpt2.config import GPTConfig


@click.command()
@click.argument("text")
@click.option("--model", "-m", type=CHECKPOINT, help="Checkpoint whose vocabulary to use.  [default: GPT-2's]")
@from_option
@size_option
@json_option
def tokenize(text: str, model: str | None, format: str | None, size: str | GPTConfig | None, as_json: bool) -> None:
    """Show the token ids of TEXT and the piece of text of each.

    A TEXT of - is read from stdin.

    \b
    Examples:
      zoo tokenize "Every effort moves you"
      zoo tokenize --json - < notes.txt
    """
    from zoo.conversion.plan import usual_vocabulary
    from zoo.formats.opening import open_path
    from zoo.text.tokenizer import Tokenizer
    from zoo.text.vocabulary import Vocabulary

    vocabulary: Vocabulary | None = Vocabulary.gpt2()
    if model:
        path = resolve(model)
        checkpoint = open_path(path, format=format, size=size)[1]
        vocabulary = checkpoint.vocabulary or usual_vocabulary(checkpoint.config)
        if vocabulary is None:
            raise FormatError(path, "has no vocabulary; leave --model out for GPT-2's")
    tokenizer = Tokenizer(vocabulary)
    ids = tokenizer.encode(read_stdin() if text == "-" else text)
    pieces = [tokenizer.decode_bytes([i]).decode("utf-8", "backslashreplace") for i in ids]
    if as_json:
        show_json({"ids": ids, "pieces": pieces})
        return
    for i in ids:
        say(f"{i:>6}  {_shown(tokenizer.decode_bytes([i]))}")


def _shown(piece: bytes) -> str:
    """A token's text in quotes; bytes that are a part of a character as \\x.."""
    try:
        return repr(piece.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(piece)[1:]


def read_stdin() -> str:
    """Return all of stdin, "" if it is closed."""
    return sys.stdin.read() if sys.stdin else ""
