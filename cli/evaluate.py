"""zoo eval."""

from __future__ import annotations

from typing import Any

import click

from zoo.cli._params import FORMAT, SIZE
from zoo.cli._show import show_json
from zoo.errors import OptionError
from zoo.models.registry import Size


@click.command("eval")
@click.argument("texts", nargs=-1, required=True)
@click.option("--model", "-m", required=True, help="A checkpoint of any format, or a run.")
@click.option("--from", "format", type=FORMAT, help="Its format; recognised by its content if not given.")
@click.option("--size", type=SIZE, help="The model it must be, or a JSON file of a config.")
@click.option("--context", type=int, help="Tokens of a window.  [default: the model's]")
@click.option("--stride", type=int, help="Tokens predicted in each window; fewer are more exact.  [default: --context]")
@click.option("--batch-size", default=4, show_default=True, help="Windows computed at once.")
@click.option("--field", default="text", show_default=True, help="Field of .jsonl objects that has the text.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
    """Measure how well a model predicts TEXTS: loss, perplexity, and bits per byte.

    Every token but the first of each text is predicted once, from at most --context tokens before it.

    \b
    Examples:
      zoo eval --model runs/notes held-out.txt
      zoo eval -m gpt2.safetensors --stride 256 --json books/
    """
    from zoo.api.models import load
    from zoo.train.step.evaluation import evaluate_texts

    loaded = load(model, format=format, size=size, device=device)
    longest = loaded.config.context_length
    if context is not None and not 1 <= context <= longest:
        raise OptionError(f"a context of {context} does not fit the model's {longest}")
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
    click.echo(f"loss           {found.loss:.4f} nats per token")
    click.echo(f"perplexity     {found.perplexity:.2f}")
    if found.bits_per_byte is not None:
        click.echo(f"bits per byte  {found.bits_per_byte:.4f}")
    click.echo(f"tokens         {found.n_tokens:,}" + (f" of {found.n_bytes:,} bytes" if found.n_bytes else ""))
