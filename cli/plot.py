"""zoo plot."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli._group import Group
from zoo.cli._options import force_option, json_option, out_option
from zoo.cli._params import CHECKPOINT, COUNT, COUNT_OR_0, RUN, Finite
from zoo.cli._progress import resolve
from zoo.cli._show import say, show_json

_KINDS = "A .png, .pdf or .svg file."


@click.group(cls=Group)
def plot() -> None:
    """Draw training losses, or the effect of sampling options.

    \b
    Examples:
      zoo plot losses runs/notes
      zoo plot losses runs/* --out compared.pdf
      zoo plot temperature --model gpt2m.safetensors "Dear"
    """


@plot.command()
@click.argument("runs", nargs=-1, required=True, type=RUN)
@out_option(f"{_KINDS}  [default: loss.png, in the run if there is one]")
@force_option
def losses(runs: tuple[Path, ...], out: Path | None, force: bool) -> None:
    """Draw the losses of RUNS: epochs below, tokens seen above.

    A run is a directory with a metrics.jsonl: one JSON object a line with epoch, tokens, train_loss and val_loss, each
    of which may be missing. Other directories are left out if there is at least one run, so that `runs/*` may match
    anything. loss.png is replaced when it is the default; another file needs --force.

    \b
    Examples:
      zoo plot losses runs/notes
      zoo plot losses runs/* --out compared.pdf
    """
    from zoo.core.paths import missing
    from zoo.plot.losses import plot_losses

    for run in runs:
        if not run.exists():
            raise missing(run, "run of zoo train")
    known = [run for run in runs if run.is_file() or (run / "metrics.jsonl").is_file()] or list(runs)
    if out is None:
        force = True
        out = known[0] / "loss.png" if len(known) == 1 and known[0].is_dir() else Path("loss.png")
    plot_losses(known, out, force=force)
    say(out)


@plot.command()
@click.argument("prompt")
@click.option("--model", "-m", required=True, type=CHECKPOINT, help="Checkpoint of any format, or name of a model.")
@click.option(
    "--temperature",
    "-t",
    "temperatures",
    multiple=True,
    type=Finite(min=0, min_open=True),
    default=(1.0, 0.1, 5.0),
    help="Temperature to draw; repeatable.",
)
@click.option("--top-k", multiple=True, type=COUNT_OR_0, help="Top-k to draw, 0 keeps all tokens; repeatable.")
@click.option("--tokens", "n_tokens", type=COUNT, default=10, help="Number of the most probable tokens to draw.")
@out_option(_KINDS, default=Path("temperature.png"))
@force_option
@json_option
def temperature(
    prompt: str,
    model: str,
    temperatures: tuple[float, ...],
    top_k: tuple[int, ...],
    n_tokens: int,
    out: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Draw the probabilities of the tokens after PROMPT at several temperatures and top-k.

    \b
    Example:
      zoo plot temperature --model gpt2m.safetensors -t 1 -t 0.5 "Dear"
    """
    from zoo.api.models import load
    from zoo.plot.figure import check_figure
    from zoo.plot.temperatures import plot_temperatures

    check_figure(out, force=force)
    loaded, ks = load(resolve(model)), tuple(k or None for k in top_k) or (None,)
    rows = plot_temperatures(loaded, prompt, out, temperatures=temperatures, top_k=ks, n_tokens=n_tokens, force=force)
    if as_json:
        show_json(rows)
    else:
        say(out)
