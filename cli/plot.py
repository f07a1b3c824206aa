"""zoo plot."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli._params import PATH
from zoo.cli._show import show_json


class PlotGroup(click.Group):
    """A group whose first command, losses, needs not be named: `zoo plot runs/*` is `zoo plot losses runs/*`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command's name back in where it was left out."""
        if args and args[0] not in self.commands and not set(args) & {"-h", "--help"}:
            args = ["losses", *args]
        return super().parse_args(ctx, args)


@click.group(cls=PlotGroup)
def plot() -> None:
    """Draw what happened in training, or what sampling does.

    \b
    Examples:
      zoo plot runs/notes
      zoo plot runs/* --out compared.pdf
      zoo plot temperature --model gpt2m.safetensors "Dear"
    """


@plot.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option("--out", type=PATH, help="A .png, .pdf or .svg file; loss.png in the run, or here for several runs.")
@click.option("--force/--no-force", default=True, show_default=True, help="Replace an output that exists.")
def losses(runs: tuple[Path, ...], out: Path | None, force: bool) -> None:
    """Draw the losses of RUNS: epochs below, tokens seen above.

    A run is a directory with a metrics.jsonl: on each line a JSON object with epoch, tokens, train_loss and val_loss,
    of which a line may leave some out.

    Directories that are no runs are left out if there are others, so that `runs/*` may match anything.
    """
    from zoo.plot.losses import plot_losses

    known = [run for run in runs if run.is_file() or (run / "metrics.jsonl").is_file()] or list(runs)
    if out is None:
        out = known[0] / "loss.png" if len(known) == 1 and known[0].is_dir() else Path("loss.png")
    plot_losses(known, out, force=force)
    click.echo(out)


@plot.command(context_settings={"show_default": True})
@click.argument("prompt")
@click.option("--model", "-m", required=True, type=PATH, help="A checkpoint of any format.")
@click.option(
    "--temperature", "-t", "temperatures", multiple=True, type=float, default=(1.0, 0.1, 5.0), help="Several."
)
@click.option("--top-k", multiple=True, type=int, help="Several; 0 keeps all tokens.")
@click.option("--tokens", "n_tokens", default=10, help="How many of the most probable tokens to draw.")
@click.option("--out", type=PATH, default=Path("temperature.png"), help="A .png, .pdf or .svg file.")
@click.option("--force/--no-force", default=True, help="Replace an output that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the probabilities as JSON.")
def temperature(
    prompt: str,
    model: Path,
    temperatures: tuple[float, ...],
    top_k: tuple[int, ...],
    n_tokens: int,
    out: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Draw how probable the tokens after PROMPT are at several temperatures and top-k."""
    from zoo.api.models import load
    from zoo.plot.temperatures import plot_temperatures

    ks = tuple(k or None for k in top_k) or (None,)
    rows = plot_temperatures(
        load(model), prompt, out, temperatures=temperatures, top_k=ks, n_tokens=n_tokens, force=force
    )
    if as_json:
        show_json(rows)
    else:
        click.echo(out)
