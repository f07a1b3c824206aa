"""zoo train."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from zoo.cli._progress import resolve
from zoo.cli._show import note, say, show_json
from zoo.cli.train_options import LORA_LR, SCRATCH_LR, train_options
from zoo.errors import OptionError
from zoo.models.registry import to_config

if TYPE_CHECKING:
    from zoo.cli._train_show import Show
    from zoo.train.run.first_model import Start
    from zoo.train.run.start import Run
    from zoo.train.run.trainer import Trainer
    from zoo.train.step.distributed import World

_FREE = ("resume", "steps", "fsdp", "compile", "device", "tensorboard", "as_json", "quiet")
"""Options that a run may be resumed with: how it is computed, and how long."""


@click.command()
@train_options
def train(**options: Any) -> None:
    """Train a model on TEXTS, from a checkpoint or from scratch.

    TEXTS are files, directories, patterns, - for stdin, or one .bin of tokens. The directory of the run holds its
    settings, tokens, metrics and checkpoints, and is a model for every other command. A run that was killed is resumed
    with --resume, and ends as if it had not been killed.

    \b
    Examples:
      zoo train notes/*.txt --model gpt2.safetensors --out runs/notes --steps 2000
      zoo train --resume runs/notes
      zoo train --resume runs/notes --steps 4000
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
        steps = given.pop("steps", None)
        _check_resume(run, options, given)
        run.start = _resumed(run.start, options)
        trainer = run.trainer(here, show.watcher, steps=steps)
        if steps is not None and here.is_main:
            run.write()
        return run, trainer
    if options["out"] is None:
        raise click.UsageError("Missing option '--out'.")
    start = _start(options)
    given.setdefault("lr", LORA_LR if start.lora else TrainConfig.lr if start.model else SCRATCH_LR)
    sources = Sources(
        train=options["texts"], val=options["val"], val_fraction=options["val_fraction"], field=options["field"]
    )
    run, first = Run.begin(options["out"], TrainConfig(**given), sources, start, here, force=options["force"])
    return run, run.trainer(here, show.watcher, first=first)


def _start(options: dict[str, Any]) -> Start:
    from zoo.train.run.first_model import Start
    from zoo.train.step.lora import LoRA

    if bool(options["model"]) == bool(options["size"]):
        raise click.UsageError("Give either --model, to fine-tune it, or --size, to train from scratch.")
    size = options["size"]
    config = None if size is None else to_config(size)
    lora = None
    if options["lora_rank"] is None:
        for name in ("lora_alpha", "lora_dropout"):
            if click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{name.replace('_', '-')} needs --lora-rank.")
    elif not options["model"]:
        raise click.UsageError("--lora-rank needs --model: adapters of random weights that nobody keeps are useless.")
    else:
        lora = LoRA(rank=options["lora_rank"], alpha=options["lora_alpha"], dropout=options["lora_dropout"])
    return Start(
        model=str(resolve(options["model"]).absolute()) if options["model"] else "",
        config=config,
        init=options["init"],
        lora=lora,
        fsdp=bool(options["fsdp"]),
        compile=bool(options["compile"]),
    )


def _resumed(start: Start, options: dict[str, Any]) -> Start:
    """Change what does not change the result: where LoRA's base is, and how processes compute."""
    changes: dict[str, Any] = {name: options[name] for name in ("fsdp", "compile") if options[name] is not None}
    if options["model"]:
        changes["model"] = str(resolve(options["model"]).absolute())
    return dataclasses.replace(start, **changes)


def _check_resume(run: Run, options: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuse to resume with other settings, and say which they are."""
    config = run.config.to_dict()
    differ = [
        f"--{name.replace('_', '-')} (was {config[name]}, now {value})"
        for name, value in given.items()
        if config[name] != value
    ]
    context = click.get_current_context()
    for name in options:
        is_given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if is_given and name not in config and name not in _FREE and not (name == "model" and run.start.lora):
            differ.append("the text" if name == "texts" else f"--{name.replace('_', '-')}")
    if differ:
        raise OptionError(
            f"a run is resumed with its own settings, but these were given: {', '.join(differ)}; leave them out, or "
            f"start another run with --model {run.path}"
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
        say(text)
        if state.best_loss is not None and not state.is_best:
            best = path / "checkpoints" / "best"
            say(f"the best was {state.best_loss:.4f} after step {state.best_step:,}: {best}")
        if reason == "interrupted":
            note(f"resume with `zoo train --resume {path}`")
