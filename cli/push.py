"""zoo push."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli._options import force_option, json_option
from zoo.cli._params import CHECKPOINT, DTYPE, OUTPUT
from zoo.cli._progress import byte_progress, resolve
from zoo.cli._show import count_text, say, show_json


@click.command()
@click.argument("source", type=CHECKPOINT)
@click.argument("repository", metavar="ORG/NAME")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--revision", help="Branch to commit to, created if necessary.")
@click.option("--message", help="Message of the commit.")
@click.option("--license", help="License on the model card, as the Hub spells it: mit, apache-2.0, ...")
@click.option("--dtype", type=DTYPE, help="Cast the weights to this dtype.")
@click.option("--update", is_flag=True, help="Change a repository that already has files.")
@click.option("--dry-run", type=OUTPUT, metavar="DIR", help="Write the repository's files to DIR; upload nothing.")
@force_option
@json_option
def push(
    source: str,
    repository: str,
    private: bool,
    revision: str | None,
    message: str | None,
    license: str | None,
    dtype: str | None,
    update: bool,
    dry_run: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Publish a checkpoint on the Hugging Face Hub.

    SOURCE is a checkpoint of any format or a run of zoo train; ORG/NAME is the repository. It has transformers' layout
    and a model card with architecture, provenance and hashes. Log in first, with `hf auth login` or HF_TOKEN;
    HF_ENDPOINT names another Hub.

    \b
    Examples:
      zoo push runs/notes ada/notes-gpt2 --private --license mit
      zoo push gpt2m.safetensors ada/gpt2m --dry-run gpt2m-repository
    """
    from zoo.hub.push import prepare
    from zoo.hub.push import push_path as run

    path = resolve(source)
    with byte_progress(quiet=as_json) as on_progress:
        if dry_run:
            done = prepare(
                path, dry_run, repository, license=license, dtype=dtype, force=force, on_progress=on_progress
            )
        else:
            done = run(
                path,
                repository,
                private=private,
                revision=revision,
                message=message,
                license=license,
                dtype=dtype,
                update=update,
                on_progress=on_progress,
            )
    if as_json:
        show_json(done.to_dict())
    else:
        say(done.commit or f"{dry_run}: {count_text(len(done.files) + 1, 'file')}, nothing uploaded")
