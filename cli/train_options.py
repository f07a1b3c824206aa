"""The options of `zoo train`: those of the run's settings, by the names of TrainConfig, and those of the command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from zoo.cli._options import json_option, out_option, quiet_option
from zoo.cli._params import CHECKPOINT, COUNT, COUNT_OR_0, FILE, NOT_NEGATIVE, RUN, SIZE, Finite

_F = TypeVar("_F", bound=Callable[..., Any])

SCRATCH_LR = 6e-4
LORA_LR = 5e-4
_FRACTION = Finite(min=0, max=1, max_open=True)
_LR = f"Highest learning rate.  [default: 0.0001; {SCRATCH_LR} from scratch, {LORA_LR} with LoRA]"


def _setting(name: str, kind: Any, help: str) -> Callable[[_F], _F]:
    """Return an option that stays None unless it is given, so that the config's own default counts."""
    return click.option(name, type=kind, help=help)


_MODEL = (
    click.argument("texts", nargs=-1, type=FILE),
    click.option(
        "--model",
        "-m",
        type=CHECKPOINT,
        help="Checkpoint or run to fine-tune; with --resume, the new path of the LoRA base.",
    ),
    click.option("--size", type=SIZE, help="Train from scratch: a registered model, or a JSON file of a config."),
    click.option("--init", type=click.Choice(["gpt2", "book"]), default="gpt2", help="Initialisation from scratch."),
    out_option("Directory for the run."),
    click.option("--force", is_flag=True, help="Replace a run that exists, once the new one can start."),
    click.option("--resume", type=RUN, help="Resume a run from its newest checkpoint; with --steps, for longer."),
    click.option("--val", type=FILE, multiple=True, help="Text or .bin to validate on; repeatable."),
    click.option("--val-fraction", type=_FRACTION, default=0.1, help="Part of the text to validate on, without --val."),
    click.option("--field", default="text", help="Field of .jsonl objects that has the text."),
)
_LENGTHS = (
    _setting("--steps", COUNT, "Optimizer steps.  [default: those of --epochs]"),
    _setting("--epochs", COUNT, "Passes over the text, if --steps is not given.  [default: 3]"),
    _setting("--batch-size", COUNT, "Windows in a step.  [default: 8]"),
    _setting("--micro-batch-size", COUNT, "Windows computed at once.  [default: about 4,096 tokens]"),
    _setting("--context", COUNT, "Tokens in a window.  [default: the model's, 512 at most]"),
    _setting("--stride", COUNT, "Tokens from one window to the next.  [default: --context]"),
    _setting("--order", click.Choice(["shuffled", "sequential", "book"]), "Order of the windows.  [default: shuffled]"),
)
_OPTIMIZER = (
    _setting("--lr", Finite(min=0, min_open=True), _LR),
    _setting(
        "--schedule",
        click.Choice(["cosine", "linear", "constant"]),
        "Learning rate after the warmup.  [default: cosine]",
    ),
    _setting("--warmup", NOT_NEGATIVE, "Warmup steps; below 1, a fraction of all steps.  [default: 0.02]"),
    _setting("--start-lr", NOT_NEGATIVE, "Learning rate at the start of the warmup.  [default: 0]"),
    _setting("--final-lr", NOT_NEGATIVE, "Learning rate at the end.  [default: 0]"),
    _setting("--weight-decay", NOT_NEGATIVE, "Weight decay of AdamW.  [default: 0.1]"),
    _setting("--betas", (_FRACTION, _FRACTION), "Betas of AdamW.  [default: 0.9 0.95]"),
    _setting("--decay", click.Choice(["matrices", "all"]), "Parameters that decay.  [default: matrices]"),
    _setting("--clip", NOT_NEGATIVE, "Largest norm of the gradients; 0 for no clipping.  [default: 1]"),
    _setting("--dropout", _FRACTION, "Dropout in training.  [default: the model's]"),
    _setting(
        "--dtype",
        click.Choice(["auto", "float32", "bfloat16"]),
        "Dtype of matrix products; auto: bfloat16 where the processor has instructions for it.  [default: auto]",
    ),
    _setting("--seed", COUNT_OR_0, "Seed of order, dropout and initialisation.  [default: 0]"),
)
_SCHEDULE = (
    _setting("--eval-every", COUNT_OR_0, "Steps between evaluations; 0 for the end only.  [default: 100]"),
    _setting("--eval-batches", COUNT_OR_0, "Batches of an evaluation; 0 for all.  [default: 0]"),
    _setting("--patience", COUNT_OR_0, "Evaluations without improvement before the run ends; 0: never.  [default: 0]"),
    _setting("--sample-every", COUNT_OR_0, "Steps between samples; 0 for none.  [default: 0]"),
    _setting("--sample-prompt", str, "Prompt of the samples.  [default: Every effort moves you]"),
    _setting("--sample-tokens", COUNT, "Tokens of a sample.  [default: 50]"),
    _setting("--save-every", COUNT_OR_0, "Steps between checkpoints; 0 for the end only.  [default: 100]"),
    _setting("--keep", COUNT, "Newest checkpoints to keep, beside the best.  [default: 2]"),
    _setting("--average", _FRACTION, "Fraction of the steps, at the end, whose weights are averaged.  [default: 0]"),
    click.option("--recompute", is_flag=True, default=None, help="Save memory: recompute activations going backward."),
    click.option(
        "--only-used-ids", is_flag=True, default=None, help="Train only ids in the text; zero other embedding rows."
    ),
)
_COMMAND = (
    click.option("--lora-rank", type=COUNT, help="Train LoRA adapters of this rank instead of the weights of --model."),
    click.option(
        "--lora-alpha",
        type=Finite(),
        help="Alpha of LoRA; updates are scaled by alpha / rank.  [default: twice the rank]",
    ),
    click.option("--lora-dropout", type=_FRACTION, default=0.0, help="Dropout of the adapters' input."),
    click.option("--fsdp/--no-fsdp", default=None, help="Under torchrun: shard parameters and optimizer (FSDP2)."),
    click.option("--compile/--no-compile", default=None, help="Compile the model with torch.compile."),
    click.option("--device", default="cpu", help="Where to train: cpu or cuda."),
    click.option("--tensorboard", is_flag=True, help="Also write metrics for TensorBoard."),
    json_option,
    quiet_option,
)


def train_options(function: _F) -> _F:
    """Decorate a command with all options, which help shows in this order."""
    for option in reversed((*_MODEL, *_LENGTHS, *_OPTIMIZER, *_SCHEDULE, *_COMMAND)):
        function = option(function)
    return function
