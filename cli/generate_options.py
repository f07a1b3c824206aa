"""The options of `zoo generate`, in groups; those of GenerationOptions have its names and defaults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from zoo.cli._options import force_option, from_option, json_option, out_option, size_option
from zoo.cli._params import CHECKPOINT, DTYPE, FILE, Several
from zoo.generation.options import GenerationOptions

_F = TypeVar("_F", bound=Callable[..., Any])
_DEFAULTS = GenerationOptions()


def _option(name: str, help: str, *names: str, kind: Any = None) -> Callable[[_F], _F]:
    """Return an option of GenerationOptions, with its default."""
    default = getattr(_DEFAULTS, name)
    return click.option(f"--{name.replace('_', '-')}", *names, name, type=kind, default=default, help=help)


_PROMPT = (
    click.argument("prompt", required=False),
    click.option("--file", "-f", type=FILE, help="Read the prompt from this file."),
    click.option("--ids", type=Several(click.INT), help="Token ids of the prompt instead of a text: 15496,11,995."),
    click.option(
        "--prompts",
        type=click.Path(path_type=Path, allow_dash=True),
        help="Continue each prompt of this file; needs --out.",
    ),
    click.option("--batch", type=click.IntRange(1, 256), help="With --prompts: texts made at once.  [default: 16]"),
)
_MODEL = (
    click.option(
        "--model",
        "-m",
        type=CHECKPOINT,
        help="Checkpoint of any format, or a model's name.  [default: ZOO_MODEL, the settings file, or stories]",
    ),
    from_option,
    size_option,
    click.option("--dtype", type=DTYPE, help="Cast the weights to this dtype.  [default: that of the file]"),
    click.option("--quantize", type=click.Choice(["int8", "int4"]), help="Quantise the weights (native engine only)."),
    click.option(
        "--int8-prefill",
        is_flag=True,
        help="Round activations of long prompts to 8 bits: faster with int8 and int4 weights, slightly less exact.",
    ),
    click.option("--threads", type=click.IntRange(1, 1024), help="Threads that compute.  [default: all cores]"),
    click.option(
        "--engine",
        type=click.Choice(["auto", "native", "torch"]),
        default="auto",
        help="native: the fast CPU engine; auto: native where possible.",
    ),
    click.option("--device", default="cpu", help="Where to run: cpu, cuda, mps, or auto."),
)
_SAMPLING = (
    _option("max_new_tokens", "Most tokens to generate.", "-n"),
    _option("temperature", "Divide the logits by this; 0 takes the most probable token.", "-t"),
    _option("top_k", "Sample from the k most probable tokens.", kind=int),
    _option("top_p", "Sample from the most probable tokens that together reach p; 1 for all."),
    _option("min_p", "Drop tokens less than this fraction as probable as the best one.", kind=float),
    _option("repetition_penalty", "Divide positive logits of tokens that occurred, multiply negative ones."),
    _option("presence_penalty", "Subtract from the logits of generated tokens."),
    _option("frequency_penalty", "Subtract from the logits of generated tokens, once for each occurrence."),
    _option("no_repeat_ngram_size", "Never repeat a run of this many tokens; 0 for no limit."),
    click.option("--stop", multiple=True, help="End the text before this string; repeatable."),
    click.option("--stop-id", "stop_ids", type=int, multiple=True, help="End the text at this token id; repeatable."),
    click.option("--ignore-eos", is_flag=True, help="Continue after <|endoftext|>."),
    _option(
        "past_context",
        "When the context is full: predict from its newest part (slow), drop half of it, or stop.",
        kind=click.Choice(["slide", "half", "stop"]),
    ),
    _option("seed", "Seed of the samples; the same seed gives the same text.", kind=int),
    _option("draw", "Random numbers of numpy, or of torch as in the book.", kind=click.Choice(["numpy", "torch"])),
    click.option("--samples", "n_samples", type=click.IntRange(1), default=1, help="Number of texts."),
)
_SPECULATION = (
    click.option(
        "--speculate", type=click.Choice(["ngram"]), help="Speculative decoding with draft tokens from the text."
    ),
    click.option("--draft", type=CHECKPOINT, help="Speculative decoding with this smaller model."),
    click.option(
        "--speculate-tokens",
        type=click.IntRange(1, 255),
        help="Draft tokens in a pass.  [default: 8 from the text, 4 from a model]",
    ),
)
_OUTPUT = (
    out_option("File for the text, or with --prompts, .jsonl file for the texts."),
    force_option,
    click.option("--no-prompt", is_flag=True, help="Print the new text without the prompt."),
    click.option("--stats", is_flag=True, help="Print time and tokens per second on stderr."),
    _option("top_logprobs", "With --json: number of most probable tokens to report with each token."),
    json_option,
)


def generate_options(command: _F) -> _F:
    """Add all options to a command, in this order."""
    for group in (_OUTPUT, _SPECULATION, _SAMPLING, _MODEL, _PROMPT):
        for decorate in reversed(group):
            command = decorate(command)
    return command
