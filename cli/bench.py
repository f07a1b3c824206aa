"""zoo bench."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from zoo.cli._params import MODEL, PATH, Several
from zoo.cli._show import human_bytes, show_json, show_table

_PRECISIONS = ("float32", "bfloat16", "float16", "int8", "int4")
_PEERS = ("transformers", "ctranslate2", "llama.cpp", "book")


@click.command(context_settings={"show_default": True})
@click.option("--model", "-m", help="A checkpoint of any format, or the name of a model.  [default: stories]")
@click.option("--random", type=MODEL, help="Instead of a model, random weights of this one's shape.")
@click.option("--precision", type=Several(_PRECISIONS), default="float32,bfloat16,int8,int4", help="Of the weights.")
@click.option("--against", type=Several(_PEERS), default="", help="Peers to compare with: " + ", ".join(_PEERS) + ".")
@click.option("--threads", type=click.IntRange(1, 1024), help="Of all; all cores if not given.")
@click.option(
    "--context",
    type=Several(click.INT),
    help="Tokens before those that are decoded.  [default: 16,256,1000, if they fit]",
)
@click.option("--prefill", type=int, help="Tokens of the prompt whose reading is measured.  [default: 512]")
@click.option("--tokens", "-n", default=24, help="Decoded in a turn.")
@click.option("--batch", default=1, help="Rows decoded at once.")
@click.option("--rounds", default=5, help="In which all take turns.")
@click.option("--busy", default=0, help="Cores that something else shall keep busy meanwhile.")
@click.option("--first-token/--no-first-token", default=True, help="Measure whole commands too.")
@click.option("--plot", type=PATH, help="Draw the speeds into a .png, .pdf or .svg file.")
@click.option("--force", is_flag=True, help="Replace an existing --plot file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(
    model: str | None,
    random: str | None,
    precision: tuple[str, ...],
    context: tuple[int, ...] | None,
    plot: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure how fast a model runs here, beside what the machine can do and beside other libraries.

    Measured are this machine's read bandwidth and its peak of multiply-adds; tokens/s of reading a prompt and of
    decoding; the time of a whole command to its first token; memory. All contenders use the same weights, threads and
    prompts, and take turns.

    \b
    Examples:
      zoo bench --model gpt2.safetensors
      zoo bench --random 124M --precision float32 --against transformers,llama.cpp
      zoo bench --random 355M --context 16,900 --json --plot speeds.png
      zoo bench --random 124M --batch 16 --busy 1
    """
    if model and random:
        raise click.UsageError("Give one of --model and --random.")
    from zoo.bench import Settings, write_random
    from zoo.bench import bench as measure

    if plot:
        from zoo.plot.figure import check_figure

        check_figure(plot, force=force)
    settings = Settings(precisions=precision, contexts=context, **options)
    for peer, reason in settings.left_out().items():
        click.echo(f"note: {peer} is left out: {reason}", err=True)
    with tempfile.TemporaryDirectory(prefix="zoo-bench-") as directory, _status() as say:
        if random:
            model = str(Path(directory) / "random.safetensors")
            say(f"random weights of {random}")
            write_random(random, Path(model))
        found = measure(model or "stories", settings, say)
    found["model"]["source"] = f"random weights of {random}" if random else found["model"]["source"]
    if as_json:
        show_json(found)
    else:
        _show(found)
    if plot:
        from zoo.plot.speeds import plot_speeds

        plot_speeds(found, plot, force=force)


@contextmanager
def _status() -> Iterator[Callable[[str], object]]:
    """Say on stderr what goes on, if it is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield status.update


def _show(found: dict[str, Any]) -> None:
    machine, contexts = found["machine"], found["settings"]["contexts"]
    peaks = " and ".join(f"{peak / 1e9:.0f} in {dtype}" for dtype, peak in machine["multiply_add_peak"].items())
    click.echo(f"{found['model']['source']}: {found['model']['parameters']:,} parameters")
    click.echo(f"{machine['threads']} threads read {machine['read_bandwidth'] / 1e9:.1f} GB/s; GFLOP/s: {peaks}")
    click.echo()
    header = ["precision", "contender", "prefill", *(f"decode {c}" for c in contexts), "first token", "memory"]
    show_table(header, [_cells(row, contexts) for row in found["rows"]], right=header[2:])
    click.echo()
    click.echo("Tokens/s and seconds; memory includes mapped files. In brackets: of zoo, the share of what the machine")
    click.echo("can do; of others, how many times as fast zoo is.")


def _cells(row: dict[str, Any], contexts: tuple[int, ...]) -> list[str]:
    first, memory = row["first_token_s"], row["peak_memory"]
    if row["contender"] == "zoo":
        brackets = [row["share_of_peak"], *(row["share_of_bandwidth"][c] for c in contexts)]
        notes = [*(f" ({share:.0%})" for share in brackets), ""]
    else:
        ratios = row["zoo_is_faster"]
        brackets = [ratios["prefill"], *(ratios["decode"][c] for c in contexts), ratios["first_token"] or 0]
        notes = [f" ({ratio:.2f}x)" for ratio in brackets]
    speeds = [row["prefill_tokens_per_s"], *(row["decode_tokens_per_s"][c] for c in contexts)]
    cells = [f"{speed:.{0 if speed >= 100 else 1}f}{note}" for speed, note in zip(speeds, notes, strict=False)]
    shown = "-" if first is None else f"{first:.2f}{notes[-1]}"
    return [row["precision"], row["contender"], *cells, shown, "-" if memory is None else human_bytes(memory)]
