"""zoo push."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli._params import DTYPE, PATH
from zoo.cli._show import byte_progress, show_json


@click.command()
@click.argument("source")
@click.argument("repository", metavar="ORG/NAME")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--revision", help="Branch to commit to; made if need be.")
@click.option("--message", help="Of the commit.")
@click.option("--license", help="For the model card, as the Hub spells it: mit, apache-2.0, ...")
@click.option("--dtype", type=DTYPE, help="Cast the weights to this dtype.")
@click.option("--update", is_flag=True, help="Change a repository that has files already.")
@click.option("--dry-run", type=PATH, metavar="DIR", help="Write the repository's files to DIR, and upload nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the commit and the hashes as JSON.")
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
    as_json: bool,
) -> None:
    """Publish SOURCE, a checkpoint of any format or a run of zoo train, as ORG/NAME on the Hugging Face Hub.

    The repository has transformers' layout and a model card with architecture, provenance and hashes. Log in first,
    with `hf auth login` or HF_TOKEN; HF_ENDPOINT names another Hub.

    \b
    Examples:
      zoo push runs/notes ada/notes-gpt2 --private --license mit
      zoo push gpt2m.safetensors ada/gpt2m --dry-run gpt2m-repository
    """
    from zoo.hub.push import prepare
    from zoo.hub.push import push as run

    with byte_progress(quiet=as_json) as on_progress:
        if dry_run:
            done = prepare(source, dry_run, repository, license=license, dtype=dtype, on_progress=on_progress)
        else:
            done = run(
                source,
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
        click.echo(done.commit or f"{dry_run}: {len(done.files) + 1} files, nothing uploaded")
