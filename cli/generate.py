"""zoo generate."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from zoo.cli._params import DTYPE, FORMAT, SIZE
from zoo.cli._show import show_json
from zoo.errors import OptionError
from zoo.models.registry import Size

if TYPE_CHECKING:
    from zoo.engine import Engine
    from zoo.engine.speculate import Counts
    from zoo.generation.options import Token
    from zoo.models.gpt2.model import GPTModel

Run = Callable[..., "Iterator[tuple[int, Token]]"]
"""generate_batch with everything but n_samples given."""


@click.command(context_settings={"show_default": True})
@click.argument("prompt", default="")
@click.option("--model", "-m", help="A checkpoint of any format, or the name of a model; stories is in the package.")
@click.option("--from", "format", type=FORMAT, help="Its format; recognised by its content if not given.")
@click.option("--size", type=SIZE, help="The model it must be, or a JSON file of a config.")
@click.option("--dtype", type=DTYPE, help="Cast the weights to this dtype; without it they keep their own.")
@click.option(
    "--quantize", type=click.Choice(["int8", "int4"]), help="Round the matrices to this, unless the file has them so."
)
@click.option("--threads", type=click.IntRange(1, 1024), help="That compute; all cores if not given.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "native", "torch"]),
    default="auto",
    help="native is the fast one, of the CPU; auto takes it where it can.",
)
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
@click.option("--speculate", type=click.Choice(["ngram"]), help="Faster: guess what followed the last words before.")
@click.option("--draft", help="Faster: guess with this smaller model of the same vocabulary, a checkpoint or a name.")
@click.option("--speculate-tokens", type=click.IntRange(1, 255), help="Guesses a pass.  [default: 8; a draft's 4]")
@click.option("--prompts", type=click.Path(path_type=Path, allow_dash=True), help="Continue each prompt of this file.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Of --prompts: where the texts go.")
@click.option("--batch", type=click.IntRange(1, 256), help="Of --prompts: texts made at once.  [default: 16]")
@click.option("--json", "as_json", is_flag=True, help="Print texts, token ids and log-probabilities as JSON.")
def generate(
    prompt: str,
    model: str | None,
    format: str | None,
    size: Size | None,
    dtype: str | None,
    quantize: str | None,
    threads: int | None,
    engine: str,
    device: str,
    n_samples: int,
    speculate: Literal["ngram"] | None,
    draft: str | None,
    speculate_tokens: int | None,
    prompts: Path | None,
    out: Path | None,
    batch: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Continue PROMPT, and print it with what follows as it comes.

    A PROMPT of - is read from stdin; without one the text starts from nothing.

    --prompts takes many: a text with one a line, or .jsonl of {"prompt": ..., "id": ..., "temperature": ...};
    - is stdin. Their texts go to --out, a .jsonl; the same command, given again, goes on where it stopped.

    \b
    Examples:
      zoo generate --model gpt2m.safetensors "Every effort moves you"
      zoo generate -m models/124M --temperature 0 -n 20 "The capital of France is"
      zoo generate -m gpt2-xl.safetensors --draft gpt2.safetensors --quantize int8 "Once"
      echo "Once upon a time" | zoo generate -m gpt2m.safetensors --samples 3 --seed 1 -
      zoo generate -m gpt2m.safetensors --prompts prompts.jsonl --out texts.jsonl --batch 32
    """
    if speculate and draft:
        raise click.UsageError("Give one of --speculate and --draft.")
    if speculate_tokens and not (speculate or draft):
        raise click.UsageError("--speculate-tokens belongs to --speculate and --draft.")
    _check_files(prompts, out, batch, alone=bool(prompt or n_samples > 1 or speculate or draft))
    text = sys.stdin.read().rstrip("\n") if prompt == "-" else prompt
    # Options are checked before seconds go into loading.
    from zoo.generation.options import Request
    from zoo.hub.resolve import find_checkpoint

    request = Request(**options)
    source = find_checkpoint(model or _default_model())
    native = _takes_native(engine, device, dtype, quantize, speculates=bool(speculate or draft))
    loaded: Engine | GPTModel
    counts: list[Counts] = []
    run: Run
    if native:
        from zoo.engine import Engine
        from zoo.engine.generation import generate_batch as run_native

        opened = partial(Engine.open, dtype=dtype, quantize=quantize, threads=threads)
        loaded = opened(source, format=format, size=size)
        run = partial(run_native, loaded, [text], request)
        if speculate or draft:
            from zoo.engine.speculate import generate_batch as run_guessing

            guesser: Engine | Literal["ngram"] = opened(find_checkpoint(draft)) if draft else "ngram"
            run = partial(
                run_guessing, loaded, [text], request, draft=guesser, n_tokens=speculate_tokens, counts=counts
            )
    else:
        from zoo.api.models import load
        from zoo.generation.api import generate_batch as run_torch

        if threads:
            import torch

            torch.set_num_threads(threads)
        loaded = load(source, format=format, size=size, dtype=dtype, device=device)
        run = partial(run_torch, loaded, [text], **options)
    if prompts and out:
        from zoo.api.checkpoints import content_hash
        from zoo.cli.prompts import continue_file

        settings = {
            "model": content_hash(source, format=format, size=size),
            "engine": "native" if native else "torch",
            "dtype": dtype,
            "quantize": quantize,
        }
        continue_file(prompts, out, loaded, request, settings, batch=batch or 16, as_json=as_json)
        return
    if as_json:
        samples = _collect(run, text, n_samples)
        for sample, count in zip(samples, counts, strict=False):  # there are none without guesses
            sample["speculation"] = {**asdict(count), "acceptance_rate": count.rate}
        show_json(samples)
    elif n_samples == 1:
        _stream(run, text)
    else:
        for i, sample in enumerate(_collect(run, text, n_samples)):
            click.echo(f"--- sample {i + 1}\n{text}{sample['text']}")
    if counts and not as_json:
        click.echo(_summary(counts), err=True)


def _summary(counts: list[Counts]) -> str:
    accepted, proposed, tokens, passes = (
        sum(getattr(each, name) for each in counts) for name in ("accepted", "proposed", "tokens", "passes")
    )
    share = f" ({accepted / proposed:.0%})" if proposed else ""
    return f"{accepted} of {proposed} guesses accepted{share}, {tokens} tokens in {passes} passes"


def _check_files(prompts: Path | None, out: Path | None, batch: int | None, *, alone: bool) -> None:
    """Refuse options that do not go with --prompts; those are `alone` that are for one prompt."""
    if prompts is None and (out or batch):
        raise click.UsageError("--out and --batch belong to --prompts.")
    if prompts is not None and out is None:
        raise click.UsageError("Missing option '--out', which --prompts needs.")
    if prompts is not None and alone:
        raise click.UsageError("PROMPT, --samples, --speculate and --draft do not go with --prompts.")


def _default_model() -> str:
    """gpt2-small where it is at hand; else the small model of the package, with a word about it."""
    from zoo.hub.model_cache import Cache
    from zoo.hub.resolve import PACKAGED

    if Cache().find("gpt2-small"):
        return "gpt2-small"
    click.echo(f"note: using the small model {PACKAGED!r}; for GPT-2 itself: --model gpt2-small (498 MB)", err=True)
    return PACKAGED


def _takes_native(engine: str, device: str, dtype: str | None, quantize: str | None, *, speculates: bool) -> bool:
    """Whether the native engine runs: it is asked for, or it is built and can do what is asked."""
    from zoo.engine import is_built

    needed = bool(quantize or speculates)
    if needed and engine == "torch":
        raise OptionError("--quantize, --speculate and --draft are of the native engine; leave out --engine torch")
    if (needed or engine == "native") and device != "cpu":
        raise OptionError(f"the native engine runs on the CPU, not on {device}; use --engine torch")
    if needed and not is_built():
        raise OptionError(
            "--quantize, --speculate and --draft need the native engine, which was not built here; leave them out, or "
            "install zoo with a C compiler"
        )
    return needed or engine == "native" or (engine == "auto" and device == "cpu" and dtype != "float64" and is_built())


def _stream(run: Run, prompt: str) -> None:
    click.echo(prompt, nl=False)
    for _, token in run(n_samples=1):
        click.echo(token.text, nl=False)
    click.echo()


def _collect(run: Run, prompt: str, n_samples: int) -> list[dict[str, Any]]:
    samples: list[dict[str, Any]] = [
        {"prompt": prompt, "text": "", "ids": [], "logprobs": [], "finish_reason": None} for _ in range(n_samples)
    ]
    for i, token in run(n_samples=n_samples):
        samples[i]["text"] += token.text
        samples[i]["ids"].append(token.id)
        samples[i]["logprobs"].append(token.logprob)
        samples[i]["finish_reason"] = token.finish_reason
    return samples
