"""zoo generate."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from zoo.cli._params import DTYPE, FORMAT, SIZE
from zoo.cli._show import show_json
from zoo.config import GPTConfig
from zoo.errors import MissingWeights

if TYPE_CHECKING:
    from zoo.model import GPTModel


@click.command(context_settings={"show_default": True})
@click.argument("prompt", default="")
@click.option("--model", "-m", help="A checkpoint of any format, or the name of a model; stories is in the package.")
@click.option("--from", "format", type=FORMAT, help="Its format; recognised by its content if not given.")
@click.option("--size", type=SIZE, help="The model it must be, or a JSON file of a config.")
@click.option("--dtype", type=DTYPE, help="Cast the weights to this dtype; without it they keep their own.")
@click.option("--device", default="cpu", help="Where to run: cpu, cuda, mps.")
@click.option("--max-new-tokens", "-n", default=64, help="Stop after this many tokens.")
@click.option("--temperature", "-t", default=0.8, help="Divide the logits by this; 0 takes the most probable token.")
@click.option("--top-k", type=int, help="Sample from the k most probable tokens only.")
@click.option("--top-p", default=0.95, help="Sample from the most probable tokens that together reach p; 1 is all.")
@click.option("--min-p", type=float, help="Leave out tokens less than this fraction as probable as the best.")
@click.option("--repetition-penalty", default=1.0, help="Make tokens that occurred less probable (above 1).")
@click.option("--stop", multiple=True, help="End the text before this string; may be given several times.")
@click.option("--stop-id", "stop_ids", type=int, multiple=True, help="End the text at this token id.")
@click.option("--ignore-eos", is_flag=True, help="Go on after <|endoftext|>.")
@click.option(
    "--past-context",
    type=click.Choice(["slide", "stop"]),
    default="slide",
    help="When the context is full: predict from its newest part (slow), or stop.",
)
@click.option("--seed", type=int, help="The same seed gives the same text.")
@click.option("--samples", "n_samples", default=1, help="How many texts.")
@click.option("--json", "as_json", is_flag=True, help="Print texts, token ids and log-probabilities as JSON.")
def generate(
    prompt: str,
    model: str | None,
    format: str | None,
    size: str | GPTConfig | None,
    dtype: str | None,
    device: str,
    n_samples: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Continue PROMPT, and print it with what follows as it comes.

    A PROMPT of - is read from stdin; without one the text starts from nothing.

    \b
    Examples:
      zoo generate --model gpt2m.safetensors "Every effort moves you"
      zoo generate -m models/124M --temperature 0 -n 20 "The capital of France is"
      echo "Once upon a time" | zoo generate -m gpt2m.safetensors --samples 3 --seed 1 -
    """
    text = sys.stdin.read().rstrip("\n") if prompt == "-" else prompt
    # Options are checked before seconds go into loading.
    from zoo.decode import Request

    Request(**options)
    from zoo.loading import load

    loaded = load(model or _default_model(), format=format, size=size, dtype=dtype, device=device)
    if as_json:
        show_json(_collect(loaded, text, n_samples, options))
    elif n_samples == 1:
        _stream(loaded, text, options)
    else:
        for i, sample in enumerate(_collect(loaded, text, n_samples, options)):
            click.echo(f"--- sample {i + 1}\n{text}{sample['text']}")


def _default_model() -> str:
    """gpt2-small where it is at hand; else the small model of the package, with a word about it."""
    from zoo.sources import PACKAGED, find_checkpoint

    try:
        find_checkpoint("gpt2-small")
        return "gpt2-small"
    except MissingWeights:
        how = "zoo convert --from openai --source DIR --out gpt2.safetensors"
        click.echo(f"note: using the small model {PACKAGED!r}; for GPT-2 itself: `{how}`, then --model", err=True)
        return PACKAGED


def _stream(model: GPTModel, prompt: str, options: dict[str, Any]) -> None:
    from zoo.generation import generate as run

    click.echo(prompt, nl=False)
    for token in run(model, prompt, **options):
        click.echo(token.text, nl=False)
    click.echo()


def _collect(model: GPTModel, prompt: str, n_samples: int, options: dict[str, Any]) -> list[dict[str, Any]]:
    from zoo.generation import generate_batch

    samples: list[dict[str, Any]] = [
        {"prompt": prompt, "text": "", "ids": [], "logprobs": [], "finish_reason": None} for _ in range(n_samples)
    ]
    for i, token in generate_batch(model, [prompt], n_samples=n_samples, **options):
        samples[i]["text"] += token.text
        samples[i]["ids"].append(token.id)
        samples[i]["logprobs"].append(token.logprob)
        samples[i]["finish_reason"] = token.finish_reason
    return samples
