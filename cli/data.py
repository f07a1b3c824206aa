"""zoo data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli._group import Group
from zoo.cli._options import force_option, json_option, out_option
from zoo.cli._params import CHECKPOINT, FILE
from zoo.cli._show import count_text, say, show_json

if TYPE_CHECKING:
    from zoo.train.data.tokens import Layout


@click.group(cls=Group)
def data() -> None:
    """Prepare text for training.

    \b
    Examples:
      zoo data prepare books/ --out books.bin
      zoo data prepare pages.jsonl --field body --layout llm.c --out pages.bin
    """


@data.command()
@click.argument("texts", nargs=-1, required=True, type=FILE)
@out_option("The .bin file to write.", required=True)
@click.option("--layout", type=click.Choice(["nanogpt", "llm.c"]), default="llm.c", help="Layout of the file.")
@click.option("--tokenizer", "-t", type=CHECKPOINT, help="Checkpoint whose vocabulary to use.  [default: GPT-2's]")
@click.option("--field", default="text", help="Field of .jsonl objects that has the text.")
@click.option("--processes", type=click.IntRange(1), help="Number of processes.  [default: one a core]")
@force_option
@json_option
def prepare(
    texts: tuple[str, ...],
    out: Path,
    layout: Layout,
    tokenizer: str | None,
    field: str,
    processes: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Turn TEXTS (files, directories, patterns, - for stdin) into one file of tokens.

    <|endoftext|> is put between documents, and in llm.c's layout before the first one, too. Texts are read a block at a
    time and may be larger than memory.

    \b
    Examples:
      zoo data prepare books/ --out books.bin
    """
    from zoo.core.output import check_output
    from zoo.train.data.corpus import prepare_file

    check_output(out, force=force)
    n_tokens, n_documents = prepare_file(
        texts, out, layout=layout, tokenizer=tokenizer, field=field, processes=processes, force=force
    )
    if as_json:
        show_json({"out": str(out), "tokens": n_tokens, "documents": n_documents, "layout": layout})
    else:
        say(f"{out}: {count_text(n_tokens, 'token')} of {count_text(n_documents, 'document')}, {layout}'s layout")


@data.command()
@out_option("The file to write; llm.c looks for gpt2_tokenizer.bin.", required=True)
@click.option("--tokenizer", "-t", type=CHECKPOINT, help="Checkpoint whose vocabulary to use.  [default: GPT-2's]")
@force_option
def tokenizer(out: Path, tokenizer: str | None, force: bool) -> None:
    """Write the tokenizer file from which llm.c prints text.

    \b
    Examples:
      zoo data tokenizer --out gpt2_tokenizer.bin
    """
    from zoo.core.output import check_output
    from zoo.train.data.corpus import prepare_tokenizer

    check_output(out, force=force)
    say(f"{out}: {count_text(prepare_tokenizer(out, tokenizer=tokenizer, force=force), 'token')}")
