"""zoo download."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli._params import FORMAT, MODEL, PATH
from zoo.cli._show import human_bytes, show_json


@click.command()
@click.argument("model", type=MODEL)
@click.option("--to", type=PATH, help="Directory for the files as they are published; without it, the cache is filled.")
@click.option("--from", "format", type=FORMAT, help="Which of the published checkpoints, with --to.")
@click.option("--json", "as_json", is_flag=True, help="Print paths, sizes and SHA-256 as JSON.")
def download(model: str, to: Path | None, format: str | None, as_json: bool) -> None:
    """Download the weights of MODEL and check them: a registered name, hf:org/name@revision or an https address.

    Without --to they are put into the cache, where every command finds them by this name. With --to their files are
    put into a directory that can be carried to a machine without network. What is interrupted goes on where it was.

    \b
    Examples:
      zoo download gpt2-small
      zoo download 355M --to models/355M
      zoo download 355M --from huggingface --to models/355M-hf
      zoo download hf:openai-community/gpt2-medium --to models/355M-hf
    """
    from zoo.hub.fetch import download as run
    from zoo.hub.fetch import get_model
    from zoo.hub.http.sha256 import hash_file
    from zoo.hub.resolve import find_checkpoint

    if format and (to is None or ":" in model):
        raise click.UsageError("--from needs --to, and the name of a registered model")
    if to is None:
        path = find_checkpoint(model) if ":" in model else get_model(model)
    else:
        run(model, to, format)
        path = to
    found = path.iterdir() if path.is_dir() else [path]
    files = sorted(file for file in found if file.is_file() and not file.name.startswith("."))
    if as_json:
        sizes = {file.name: {"size": file.stat().st_size, "sha256": hash_file(file)} for file in files}
        show_json({"model": model, "path": str(path), "files": sizes})
    else:
        click.echo(f"{path}: {len(files)} file{'s' * (len(files) > 1)}, {human_bytes(_size(files))}")


def _size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)
