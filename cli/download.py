"""zoo download."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli._options import json_option
from zoo.cli._params import FORMAT, MODEL, OUTPUT
from zoo.cli._progress import byte_progress, resolve
from zoo.cli._show import count_text, human_bytes, say, show_json


@click.command()
@click.argument("model", type=MODEL)
@click.option("--to", type=OUTPUT, help="Directory for the files as they are published.  [default: the cache]")
@click.option("--from", "format", type=FORMAT, help="Format of the published checkpoint to take, with --to.")
@json_option
def download(model: str, to: Path | None, format: str | None, as_json: bool) -> None:
    """Download the weights of MODEL and check them.

    MODEL is a registered name, hf:org/name@revision or an https address. Without --to they are put into the cache,
    where every command finds them by this name. With --to the files are put into a directory that can be carried to a
    machine without network. An interrupted download is resumed.

    \b
    Examples:
      zoo download gpt2-small
      zoo download 355M --to models/355M
      zoo download 355M --from huggingface --to models/355M-hf
      zoo download hf:openai-community/gpt2-medium --to models/355M-hf
    """
    from zoo.hub.fetch import download as run
    from zoo.hub.http.sha256 import hash_file

    if format and (to is None or ":" in model):
        raise click.UsageError("--from needs --to, and the name of a registered model.")
    if to is None:
        path = resolve(model)
    else:
        with byte_progress() as on_progress:
            run(model, to, format, on_progress=on_progress)
        path = to
    found = path.iterdir() if path.is_dir() else [path]
    files = sorted(file for file in found if file.is_file() and not file.name.startswith("."))
    if as_json:
        sizes = {file.name: {"bytes": file.stat().st_size, "sha256": hash_file(file)} for file in files}
        show_json({"model": model, "path": str(path), "files": sizes})
    else:
        say(f"{path}: {count_text(len(files), 'file')}, {human_bytes(sum(file.stat().st_size for file in files))}")
