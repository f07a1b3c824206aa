"""zoo tokenize."""

from __future__ import annotations

import sys

import click

from zoo.cli._options import from_option, json_option, size_option
from zoo.cli._params import CHECKPOINT
from zoo.cli._progress import resolve
from zoo.cli._show import say, show_json
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
    from zoo.formats.opening import open_path
    from zoo.text.tokenizer import Tokenizer

    tokenizer = Tokenizer(open_path(resolve(model), format=format, size=size)[1].vocabulary if model else None)
    ids = tokenizer.encode(read_stdin() if text == "-" else text)
    pieces = [tokenizer.piece(i) for i in ids]
    if as_json:
        show_json({"ids": ids, "pieces": pieces})
        return
    for i, piece in zip(ids, pieces, strict=True):
        say(f"{i:>6}  {piece!r}".replace("\\\\x", "\\x"))


def read_stdin() -> str:
    """Return all of stdin, "" if it is closed."""
    return sys.stdin.read() if sys.stdin else ""
