"""zoo train."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from zoo.cli._params import PATH, SIZE
from zoo.cli._show import show_json
from zoo.errors import OptionError
from zoo.models.registry import to_config

if TYPE_CHECKING:
    from zoo.cli._train_show import Show
    from zoo.train.run.start import Run, Start
    from zoo.train.run.trainer import Trainer
    from zoo.train.step.distributed import World

_F = TypeVar("_F", bound=Callable[..., Any])

_SCRATCH_LR = 6e-4
_LORA_LR = 5e-4
_FREE = ("resume", "fsdp", "compile", "device", "tensorboard", "as_json", "quiet")
"""Options that a run may be resumed with; they change how it is computed, not what."""


def _option(name: str, kind: Any, help: str) -> Callable[[_F], _F]:
    """An option that stays None unless it is given, so that the config's own default counts."""
    return click.option(name, type=kind, help=help)


@click.command()
@click.argument("texts", nargs=-1)
@click.option(
    "--model", "-m", help="The checkpoint to go on with: any format, or a run. With --resume, a moved base of LoRA."
)
@click.option("--size", type=SIZE, help="Begin from scratch instead: a registered model, or a JSON file of a config.")
@click.option("--init", type=click.Choice(["gpt2", "book"]), default="gpt2", help="How fresh weights are drawn.")
@click.option("--out", "-o", type=PATH, help="Directory for the run; must not exist.")
@click.option("--resume", type=PATH, help="Go on with a run from its newest checkpoint.")
@click.option("--val", multiple=True, help="Text or .bin to validate on; may be given several times.")
@click.option("--val-fraction", type=float, default=0.1, show_default=True, help="Without --val: from the text's end.")
@click.option("--field", default="text", show_default=True, help="Field of .jsonl objects that has the text.")
@_option("--steps", int, "Steps of the optimizer.")
@_option("--epochs", int, "Passes over the text, if --steps is not given.  [default: 3]")
@_option("--batch-size", int, "Windows in a step.  [default: 8]")
@_option("--micro-batch-size", int, "Windows computed at once.  [default: about 4,096 tokens]")
@_option("--context", int, "Tokens of a window.  [default: the model's, 512 at most]")
@_option("--stride", int, "Tokens from one window to the next.  [default: --context]")
@_option("--order", click.Choice(["shuffled", "sequential", "book"]), "Of the windows.  [default: shuffled]")
@_option("--lr", float, f"Highest learning rate.  [default: 1e-4; {_SCRATCH_LR} from scratch, {_LORA_LR} with LoRA]")
@_option("--schedule", click.Choice(["cosine", "linear", "constant"]), "After the warmup.  [default: cosine]")
@_option("--warmup", float, "Steps of rising learning rate; below 1, a fraction of all.  [default: 0.02]")
@_option("--start-lr", float, "Learning rate at the start of the warmup.  [default: 0]")
@_option("--final-lr", float, "Learning rate at the end.  [default: 0]")
@_option("--weight-decay", float, "Of AdamW.  [default: 0.1]")
@_option("--betas", (float, float), "Of AdamW.  [default: 0.9 0.95]")
@_option("--decay", click.Choice(["matrices", "all"]), "What decays.  [default: matrices]")
@_option("--clip", float, "Largest norm of the gradients; 0 for none.  [default: 1]")
@_option("--dropout", float, "In training.  [default: the model's]")
@_option("--dtype", click.Choice(["auto", "float32", "bfloat16"]), "Of products; auto: whichever is faster.")
@_option("--seed", int, "Of order, dropout and fresh weights.  [default: 0]")
@_option("--eval-every", int, "Steps between evaluations.  [default: 100]")
@_option("--eval-batches", int, "Batches of an evaluation; 0 for all.  [default: 0]")
@_option("--patience", int, "End after so many evaluations without improvement.")
@_option("--sample-every", int, "Steps between samples; 0 for none.")
@_option("--sample-prompt", str, "That samples continue.")
@_option("--sample-tokens", int, "Of a sample.  [default: 50]")
@_option("--save-every", int, "Steps between checkpoints.  [default: 100]")
@_option("--keep", int, "Newest checkpoints to keep, beside the best.  [default: 2]")
@_option("--average", float, "Average the weights of this last fraction of the steps.")
@click.option("--recompute", is_flag=True, default=None, help="Save memory: compute activations again going back.")
@click.option("--only-used-ids", is_flag=True, default=None, help="Skip ids the text lacks; their rows become zero.")
@click.option("--lora-rank", type=int, help="Train LoRA adapters of this rank instead of the weights.")
@click.option("--lora-alpha", type=float, help="Their alpha.  [default: twice the rank]")
@click.option("--lora-dropout", type=float, default=0.0, help="Of their input.")
@click.option("--fsdp/--no-fsdp", default=None, help="Under torchrun: share out parameters and optimizer (FSDP2).")
@click.option("--compile/--no-compile", default=None, help="Let torch.compile make the kernels.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--tensorboard", is_flag=True, help="Write metrics for TensorBoard, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing.")
def train(**options: Any) -> None:
    """Go on training a model, or begin one, on TEXTS: files, directories, patterns, - for stdin, or one .bin.

    The directory of the run holds its settings, tokens, metrics and checkpoints, and is a model for every other
    command. A run that was killed goes on with --resume and ends as if it had not been.

    \b
    Examples:
      zoo train notes/*.txt --model gpt2.safetensors --out runs/notes --steps 2000
      zoo train --resume runs/notes
      zoo train notes.txt --model gpt2.safetensors --lora-rank 8 --out runs/adapter
      torchrun --nproc-per-node 8 -m zoo train corpus.bin --size 355M --out runs/big --fsdp --device cuda
    """
    from zoo.cli._train_show import Show
    from zoo.train.step.distributed import world

    with world(options["device"]) as here, Show(options, quiet=options["quiet"] or not here.is_main) as show:
        run, trainer = _open(options, here, show)
        for note in run.notes:
            show.note(note)
        if trainer.state.step >= trainer.steps:
            show.note(f"{run.path} has done all its {trainer.steps:,} steps already")
        reason = show.follow(trainer, run.path)
        if here.is_main:
            _report(trainer, run.path, reason, options)


def _open(options: dict[str, Any], here: World, show: Show) -> tuple[Run, Trainer]:
    from zoo.train.data.corpus import Sources
    from zoo.train.run.start import Run
    from zoo.train.settings import TrainConfig

    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    given = {name: value for name, value in options.items() if name in fields and value is not None}
    if options["resume"]:
        run = Run.open(options["resume"])
        _check_resume(run, options, given)
        run.start = _resumed(run.start, options)
        return run, run.trainer(here, show.watcher)
    if options["out"] is None:
        raise click.UsageError("Missing option '--out'.")
    start = _start(options)
    given.setdefault("lr", _LORA_LR if start.lora else TrainConfig.lr if start.model else _SCRATCH_LR)
    sources = Sources(
        train=options["texts"], val=options["val"], val_fraction=options["val_fraction"], field=options["field"]
    )
    run, first = Run.begin(options["out"], TrainConfig(**given), sources, start, here)
    return run, run.trainer(here, show.watcher, first=first)


def _start(options: dict[str, Any]) -> Start:
    from zoo.train.run.start import Start
    from zoo.train.step.lora import LoRA

    if bool(options["model"]) == bool(options["size"]):
        raise click.UsageError("Give either --model, to go on with, or --size, to begin from scratch.")
    size = options["size"]
    config = None if size is None else to_config(size)
    lora = None
    if options["lora_rank"] is not None:
        lora = LoRA(rank=options["lora_rank"], alpha=options["lora_alpha"], dropout=options["lora_dropout"])
    model = options["model"] or ""
    return Start(
        model=str(Path(model).absolute()) if model and Path(model).exists() else model,
        config=config,
        init=options["init"],
        lora=lora,
        fsdp=bool(options["fsdp"]),
        compile=bool(options["compile"]),
    )


def _resumed(start: Start, options: dict[str, Any]) -> Start:
    """Change what does not change the run: where LoRA's base is, and how processes compute."""
    from zoo.hub.resolve import find_checkpoint

    changes: dict[str, Any] = {name: options[name] for name in ("fsdp", "compile") if options[name] is not None}
    if options["model"]:
        changes["model"] = str(find_checkpoint(options["model"]).absolute())
    return dataclasses.replace(start, **changes)


def _check_resume(run: Run, options: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuse to resume with other settings, and say which they are."""
    config = run.config.to_dict()
    differ = [f"{name} (was {config[name]}, now {value})" for name, value in given.items() if config[name] != value]
    context = click.get_current_context()
    for name in options:
        is_given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if is_given and name not in config and name not in _FREE and not (name == "model" and run.start.lora):
            differ.append("the text" if name == "texts" else f"--{name.replace('_', '-')}")
    if differ:
        raise OptionError(
            f"a run goes on with its own settings, and these were given anew: {', '.join(differ)}; leave them out, or "
            f"begin another run with --model {run.path}"
        )


def _report(trainer: Trainer, path: Path, reason: str, options: dict[str, Any]) -> None:
    state = trainer.state
    if options["as_json"]:
        show_json(
            {
                "run": str(path),
                "ended": reason,
                "step": state.step,
                "steps": trainer.steps,
                "tokens": state.n_tokens,
                "seconds": state.seconds,
                "val_loss": state.val_loss,
                "best_loss": state.best_loss,
                "best_step": state.best_step,
            }
        )
    elif not options["quiet"]:
        text = f"{path}: {reason} after step {state.step:,} of {trainer.steps:,}"
        if state.val_loss is not None:
            perplexity = math.exp(min(state.val_loss, 700))
            text += f", validation loss {state.val_loss:.4f} nats (perplexity {perplexity:.2f})"
        click.echo(text)
        if state.best_loss is not None and not state.is_best:
            best = path / "checkpoints" / "best"
            click.echo(f"the best was {state.best_loss:.4f} after step {state.best_step:,}: {best}")
        if reason == "interrupted":
            click.echo(f"go on with `zoo train --resume {path}`", file=sys.stderr)
