"""zoo bench."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from zoo.cli._options import force_option, json_option
from zoo.cli._params import CHECKPOINT, COUNT, COUNT_OR_0, MODEL, OUTPUT, Several
from zoo.cli._progress import resolve, status
from zoo.cli._show import human_bytes, note, say, show_json, show_table

_PRECISIONS = ("float32", "bfloat16", "float16", "int8", "int4")
_PEERS = ("transformers", "ctranslate2", "llama.cpp", "onnxruntime", "openvino", "book", "zoo-int8-prefill")


@click.command()
@click.option(
    "--model", "-m", type=CHECKPOINT, help="Checkpoint of any format, or name of a model.  [default: stories]"
)
@click.option("--random", type=MODEL, help="Random weights of this model's shape, instead of --model.")
@click.option(
    "--precision", type=Several(_PRECISIONS), default="float32,bfloat16,int8,int4", help="Precisions of the weights."
)
@click.option(
    "--against",
    type=Several(_PEERS),
    default="",
    show_default=False,
    help="Peers to compare with: " + ", ".join(_PEERS) + ".",
)
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of each contender.  [default: all cores]")
@click.option(
    "--context",
    type=Several(COUNT),
    help="Tokens in the cache before decoding.  [default: 16,256,1000, if they fit]",
)
@click.option("--prefill", type=COUNT, help="Tokens of the prompt whose prefill is measured.  [default: 512]")
@click.option("--tokens", "-n", type=COUNT, default=24, help="Tokens decoded in a round.")
@click.option("--batch", type=COUNT, default=1, help="Rows decoded at once.")
@click.option("--rounds", type=COUNT, default=5, help="Number of measurement rounds.")
@click.option("--busy", type=COUNT_OR_0, default=0, help="Cores kept busy by another process meanwhile.")
@click.option("--first-token/--no-first-token", default=True, help="Also measure whole commands.")
@click.option("--plot", type=OUTPUT, help="Draw the speeds into a .png, .pdf or .svg file.")
@force_option
@json_option
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
    """Measure how fast a model runs on this machine.

    Speeds are compared with the machine's limits and with other libraries. zoo measures the read bandwidth and the
    peak of multiply-adds of this machine, the tokens/s of prefill and decoding, the time of a whole command to its
    first token, and memory. All contenders use the same weights, threads and prompts, and run alternately.

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
        note(f"{peer} is left out: {reason}")
    with tempfile.TemporaryDirectory(prefix="zoo-bench-") as directory, status() as tell:
        if random:
            model = str(Path(directory) / "random.safetensors")
            tell(f"random weights of {random}")
            write_random(random, Path(model))
        found = measure(str(resolve(model or "stories")), settings, tell, _tell_row)
    for peer in found["left_out"].keys() - settings.left_out().keys():
        note(f"{peer} failed, in {found['left_out'][peer]}")
    found["model"]["source"] = f"random weights of {random}" if random else found["model"]["source"]
    show_json(found) if as_json else _show(found)
    if plot:
        from zoo.plot.speeds import plot_speeds

        plot_speeds(found, plot, force=force)
    if found["interrupted"]:
        raise click.Abort


def _tell_row(row: dict[str, Any]) -> None:
    """Show on stderr what is measured already, for whoever waits or interrupts."""
    speeds = ", ".join(f"{speed:.1f} at {context}" for context, speed in row["decode_tokens_per_s"].items())
    note(f"{row['precision']} {row['contender']}: prefill {row['prefill_tokens_per_s']:.1f} tokens/s, decode {speeds}")


def _show(found: dict[str, Any]) -> None:
    machine, contexts = found["machine"], found["settings"]["contexts"]
    peaks = " and ".join(f"{peak / 1e9:.0f} in {dtype}" for dtype, peak in machine["multiply_add_peak"].items())
    say(f"{found['model']['source']}: {found['model']['parameters']:,} parameters")
    say(f"{machine['threads']} threads read {machine['read_bandwidth'] / 1e9:.1f} GB/s; peak in Gop/s: {peaks}")
    say()
    header = ["precision", "contender", "prefill", *(f"decode {c}" for c in contexts), "first token", "memory"]
    show_table(header, [_cells(row, contexts) for row in found["rows"]], right=header[2:])
    say()
    say("Tokens/s and seconds; memory includes mapped files. In brackets: for zoo, the")
    say("percentage of the machine's limit; for the others, zoo's speed-up over them.")


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
