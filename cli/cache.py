"""zoo cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli._group import Group
from zoo.cli._options import from_option, json_option
from zoo.cli._params import CHECKPOINT, MODEL
from zoo.cli._progress import byte_progress
from zoo.cli._show import human_bytes, say, show_json, show_table
from zoo.errors import MissingWeights

if TYPE_CHECKING:
    from zoo.hub.model_cache import Cache, Entry


@click.group(cls=Group)
def cache() -> None:
    """List, check and remove downloaded models.

    The cache is in the directory ZOO_CACHE, or where the system keeps caches. A model in it is a zoo file, converted
    once and mapped into memory by whoever uses it; several users may share it read-only.

    \b
    Examples:
      zoo cache list
      zoo cache verify
      zoo cache rm gpt2-xl
    """


@cache.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the models in the cache.

    \b
    Examples:
      zoo cache list
      zoo cache list --json
    """
    from zoo.hub.model_cache import Cache, directory_size

    found = Cache()
    entries, unfinished = found.entries(), found.unfinished()
    if as_json:
        models = [_as_json(entry) for entry in entries]
        kept = [{"path": str(path), "bytes": directory_size(path)} for path in unfinished]
        show_json({"cache": str(found.root), "models": models, "sources": kept})
        return
    if not entries and not unfinished:
        say(f"{found.root} is empty; `zoo download gpt2-small` fills it")
        return
    rows = [[entry.name, human_bytes(entry.size), entry.origin.get("format", ""), entry.sha256] for entry in entries]
    rows += [[path.name, human_bytes(directory_size(path)), "files of a download", ""] for path in unfinished]
    show_table(["model", "size", "from", "SHA-256"], rows, right=["size"])


@cache.command()
@click.argument("model", required=False, type=MODEL)
def path(model: str | None) -> None:
    """Print the cache's directory, or the file of MODEL in it.

    \b
    Examples:
      zoo cache path
      zoo cache path gpt2-small
    """
    from zoo.hub.model_cache import Cache

    say(_entry(Cache(), model).path if model else Cache().root)


@cache.command()
@click.argument("models", nargs=-1, type=MODEL)
@json_option
@click.pass_context
def verify(ctx: click.Context, models: tuple[str, ...], as_json: bool) -> None:
    """Read MODELS, or all, and compare their SHA-256 with the recorded one.

    The exit status is 1 if one differs.

    \b
    Examples:
      zoo cache verify
    """
    from zoo.hub.model_cache import Cache, damage

    found = Cache()
    entries = [_entry(found, model) for model in models] if models else found.entries()
    problems = {entry.name: damage(entry) for entry in entries}
    if as_json:
        show_json(problems)
    else:
        for name, problem in problems.items():
            say(f"{name}: {f'{problem}; remove it with `zoo cache rm {name}`' if problem else 'intact'}")
    ctx.exit(int(any(problems.values())))


@cache.command()
@click.argument("models", nargs=-1, type=MODEL)
@click.option("--all", "everything", is_flag=True, help="Remove all models and all files of downloads.")
@click.option("--unfinished", is_flag=True, help="Remove the files of downloads that did not finish, or were kept.")
@click.option(
    "--forget", is_flag=True, help="Also forget the recorded hashes, so that different files are accepted next time."
)
def rm(models: tuple[str, ...], everything: bool, unfinished: bool, forget: bool) -> None:
    """Remove MODELS from the cache.

    The hashes of downloaded files are kept, so that the next download must give the same files.

    \b
    Examples:
      zoo cache rm gpt2-xl
      zoo cache rm --unfinished
    """
    from zoo.hub.model_cache import Cache

    if not (models or everything or unfinished):
        raise click.UsageError("Name the models to remove, or give --all or --unfinished.")
    found = Cache()
    entries = found.entries() if everything else [_entry(found, model) for model in models if not forget]
    if forget:
        for model in models:
            found.forget_hashes(_name(model))
        entries += [entry for model in models if (entry := found.recorded(_name(model))) and entry not in entries]
    freed = 0
    for entry in entries:
        found.remove(entry)
        freed += entry.size
    if everything or unfinished:
        freed += found.remove_unfinished()
    say(f"removed {human_bytes(freed)}")


@cache.command()
@click.argument("model", type=MODEL)
@click.argument("source", type=CHECKPOINT)
@from_option
@click.option("--force", is_flag=True, help="Accept files that are not the published ones, or cannot be compared.")
def add(model: str, source: str, format: str | None, force: bool) -> None:
    """Convert SOURCE, a checkpoint of MODEL, into the cache, for example a download from another machine.

    Where the SHA-256 of the published files are known, those of SOURCE must be the same.

    \b
    Examples:
      zoo cache add gpt2-small /media/stick/124M
    """
    from zoo.hub.fetch import add_model

    with byte_progress() as on_progress:
        say(add_model(model, Path(source), format, force=force, on_progress=on_progress))


def _as_json(entry: Entry) -> dict[str, Any]:
    fields = {**vars(entry), "path": str(entry.path)}
    return {("bytes" if name == "size" else name): value for name, value in fields.items()}


def _entry(found: Cache, model: str) -> Entry:
    entry = found.recorded(_name(model))
    if entry is None:
        raise MissingWeights(f"{model} is not in the cache {found.root}; `zoo cache list` shows what is")
    return entry


def _name(model: str) -> str:
    """The name under which a model, or a URL, is in the cache."""
    from zoo.models.registry import is_registered, resolve_name

    return resolve_name(model) if is_registered(model) else model
