"""zoo data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli._params import PATH
from zoo.cli._show import show_json

if TYPE_CHECKING:
    from zoo.train.data.tokens import Layout


@click.group()
def data() -> None:
    """Prepare text for training.

    \b
    Examples:
      zoo data prepare books/ --out books.bin
      zoo data prepare pages.jsonl --field body --layout llm.c --out pages.bin
    """


@data.command()
@click.argument("texts", nargs=-1, required=True)
@click.option("--out", "-o", type=PATH, required=True, help="The .bin file to write.")
@click.option("--layout", type=click.Choice(["nanogpt", "llm.c"]), default="llm.c", show_default=True)
@click.option("--tokenizer", "-t", help="A checkpoint whose vocabulary to use.  [default: GPT-2's]")
@click.option("--field", default="text", show_default=True, help="Field of .jsonl objects that has the text.")
@click.option("--processes", type=click.IntRange(1), help="That tokenise.  [default: one a core]")
@click.option("--force", is_flag=True, help="Replace an output that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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

    <|endoftext|> stands between documents. The file is read a block at a time, so that it may be larger than memory.
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
        click.echo(f"{out}: {n_tokens:,} tokens of {n_documents:,} documents, {layout}'s layout")
