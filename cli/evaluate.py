"""zoo eval."""

from __future__ import annotations

from typing import Any

import click

from zoo.cli._options import from_option, json_option, size_option
from zoo.cli._params import CHECKPOINT, COUNT, FILE
from zoo.cli._progress import resolve
from zoo.cli._show import say, show_json
from zoo.models.registry import Size


@click.command("eval")
@click.argument("texts", nargs=-1, required=True, type=FILE)
@click.option("--model", "-m", required=True, type=CHECKPOINT, help="Checkpoint of any format, or a run.")
@from_option
@size_option
@click.option("--context", type=COUNT, help="Tokens in a window.  [default: the model's]")
@click.option(
    "--stride", type=COUNT, help="Tokens predicted in each window; fewer are more exact.  [default: --context]"
)
@click.option("--batch-size", type=COUNT, default=4, help="Windows computed at once.")
@click.option("--field", default="text", help="Field of .jsonl objects that has the text.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Dtype of the products.")
@click.option("--device", default="cpu", help="Where to run: cpu, cuda or mps.")
@json_option
def evaluate(
    texts: tuple[str, ...],
    model: str,
    format: str | None,
    size: Size | None,
    context: int | None,
    stride: int | None,
    batch_size: int,
    field: str,
    dtype: str,
    device: str,
    as_json: bool,
) -> None:
    """Measure the loss and perplexity of a model on TEXTS.

    The result also has bits per byte, which compare models with different tokens. Every token but the first of each
    text is predicted once, from at most --context tokens before it.

    \b
    Examples:
      zoo eval --model runs/notes held-out.txt
      zoo eval -m gpt2.safetensors --stride 256 --json books/
    """
    from zoo.api.models import load
    from zoo.train.step.evaluation import evaluate_texts

    loaded = load(resolve(model), format=format, size=size, device=device)
    found = evaluate_texts(
        loaded, texts, context=context, stride=stride, batch_size=batch_size, field=field, dtype=dtype
    )
    rows: dict[str, Any] = {
        "loss": found.loss,
        "perplexity": found.perplexity,
        "bits_per_byte": found.bits_per_byte,
        "tokens": found.n_tokens,
        "bytes": found.n_bytes or None,
    }
    if as_json:
        show_json(rows)
        return
    say(f"loss           {found.loss:.4f} nats per token")
    say(f"perplexity     {found.perplexity:.2f}")
    if found.bits_per_byte is not None:
        say(f"bits per byte  {found.bits_per_byte:.4f}")
    say(f"tokens         {found.n_tokens:,}" + (f" of {found.n_bytes:,} bytes" if found.n_bytes else ""))
