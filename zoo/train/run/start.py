"""A run directory with settings, tokens, metrics and checkpoints: create, resume and load it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from zoo.api.models import load
from zoo.containers.files import read_json
from zoo.core.output import atomic_output
from zoo.core.paths import missing
from zoo.errors import FormatError, OptionError, TrainingError, ZooError
from zoo.hub.resolve import find_checkpoint
from zoo.hub.runs import DATA, SETTINGS, SHARDED, list_checkpoints
from zoo.models.gpt2.config import GPTConfig
from zoo.models.gpt2.model import GPTModel
from zoo.train.data.corpus import Sources, check_ids, open_corpus, prepare
from zoo.train.data.tokens import Tokens
from zoo.train.data.windows import Windows
from zoo.train.run.checkpoint import State, load_model, load_optimizer, read_state, sweep
from zoo.train.run.first_model import Start, make_first_model
from zoo.train.run.foreign_optimizer import take_over
from zoo.train.run.guards import alone, check_together
from zoo.train.run.sharded_checkpoint import load_sharded
from zoo.train.run.trainer import Trainer
from zoo.train.run.watcher import Watcher
from zoo.train.settings import TrainConfig
from zoo.train.step.distributed import World
from zoo.train.step.optimization import fast_dtype


@dataclass
class Run:
    """A run of `zoo train`: everything that config.json in its directory records.

    Attributes:
        path: Path of the directory.
        config: Settings that decide what is computed, with "auto" and 0 resolved.
        sources: Texts.
        start: Model that the run started from.
        notes: Messages for the user, for example about a corrupt checkpoint that was skipped.
    """

    path: Path
    config: TrainConfig
    sources: Sources
    start: Start
    notes: list[str] = field(default_factory=list)

    @classmethod
    def begin(
        cls, path: Path, config: TrainConfig, sources: Sources, start: Start, here: World, *, force: bool = False
    ) -> tuple[Run, Any]:
        """Make the directory and its tokens, once the text is known to do. All processes must call it.

            The model.
            the run, and the model with the generator that drew it: (GPTModel, torch.Generator | None).

        Raises:
            OutputError: the path exists, and force is not given.
            OptionError: the text is too short, or does not fit the model.
            ZooError: The model or the text cannot be read.
        """
        # A run stands for its newest checkpoint, which changes while it trains, so the path of that checkpoint is
        # stored.
        if start.model:
            start = dataclasses.replace(start, model=str(find_checkpoint(start.model)))
        sources = sources.absolute()
        model, generator = make_first_model(start, config.seed)
        run = cls(path, settle(config, model.config, here.device), sources, start)
        check_together(run.config, fsdp=start.fsdp, lora=start.lora is not None)
        if here.is_main:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_output(path, force=force) as temporary:
                (temporary / DATA).mkdir(parents=True)
                prepare(sources, model.tokenizer, temporary / DATA)
                train, _ = run.open_corpus(model.config.vocab_size, temporary / DATA)
                Windows(train, run.config.context, run.config.stride)  # refuses a text that is too short
                run.write(temporary)
        here.barrier()
        return run, (model, generator)

    def write(self, directory: Path | None = None) -> None:
        """Write the settings into a directory, which is the run's own unless another is given."""
        content = {
            "zoo_run": 1,
            "config": self.config.to_dict(),
            "sources": dataclasses.asdict(self.sources),
            "start": self.start.to_dict(),
        }
        with atomic_output((directory or self.path) / SETTINGS, force=True) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def open_corpus(self, vocab_size: int, directory: Path) -> tuple[Tokens, Tokens | None]:
        """Map the tokens for training and validation.

        Raises:
            OptionError: a token is not one of the model's.
        """
        train, val = open_corpus(self.sources, directory)
        for tokens in (train, val):
            if tokens is not None:
                check_ids(tokens, vocab_size, "the text")
        return train, val

    @classmethod
    def open(cls, path: Path) -> Run:
        """Read the settings of a run.

        Raises:
            FormatError: The directory is not a run.
        """
        if not path.exists():
            raise missing(path, "run of zoo train")
        file = path / SETTINGS
        if not file.is_file():
            raise FormatError(path, "is not a run of zoo train: it has no config.json")
        content = read_json(file)
        try:
            config = TrainConfig.from_dict(content["config"])
            return cls(path, config, Sources.from_dict(content["sources"]), Start.from_dict(content["start"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(file, f"is not the config of a run ({error}); use another directory") from error

    def trainer(self, here: World, watcher: Watcher, *, first: Any = None, steps: int | None = None) -> Trainer:
        """Make what trains: from the beginning with `first` of begin(), or from the newest intact checkpoint.

        Args:
            here: The group of training processes.
            watcher: Callbacks.
            first: what begin() returned beside the run.
            steps: new number of steps of a resumed run; its schedule is stretched to that, and warmup does not repeat.

        Raises:
            TrainingError: There is no intact checkpoint.
            OptionError: the text does not fit the model, or the run has more steps already.
        """
        path, state = (None, None) if first else self._newest(here)
        if path is None:
            model, generator = first or make_first_model(self.start, self.config.seed)
        else:
            generator = None
            model = self._model_of(path)
        if steps is not None:
            if state is not None and steps < state.step:
                raise OptionError(
                    f"must be at least the {state.step:,} that the run has done, not {steps}", option="steps"
                )
            self.config = self.config.replace(steps=steps)
        train, val = self.open_corpus(model.config.vocab_size, self.path / DATA)
        trainer = Trainer(
            model,
            train,
            val,
            self.config,
            out=self.path,
            here=here,
            fsdp=self.start.fsdp,
            compile=self.start.compile,
            base=self.start.model,
            generator=generator,
            watcher=watcher,
        )
        if path is not None and state is not None:
            self._restore(trainer, path, state)
            trainer.state = state
        elif self.start.model and not self.start.fsdp and self.start.lora is None:
            self.notes += take_over(Path(self.start.model), trainer.model, trainer.optimizer)
        return trainer

    def _model_of(self, path: Path) -> GPTModel:
        if (path / SHARDED).is_dir():
            return load(path / SHARDED)
        return load_model(path, base=self.start.model)

    def _restore(self, trainer: Trainer, path: Path, state: State) -> None:
        if (path / SHARDED).is_dir():
            load_sharded(path / SHARDED, trainer.model, trainer.optimizer)
            return
        load_optimizer(path, trainer.model, trainer.optimizer)
        if trainer.average and state.n_averaged:
            average = load_model(path, base=self.start.model, average=True)
            trainer.average.module.load_state_dict(average.state_dict())
            trainer.average.n_averaged.fill_(state.n_averaged)

    def _newest(self, here: World) -> tuple[Path | None, Any]:
        if here.is_main:
            with alone(self.path):
                sweep(self.path)
        for path in list_checkpoints(self.path):
            try:
                return path, read_state(path)
            except ZooError as error:
                self.notes.append(f"{error}; resuming from the checkpoint before it")
        if self.notes:
            raise TrainingError(f"no intact checkpoint in {self.path}; start a new run")
        return None, None


def settle(config: TrainConfig, model: GPTConfig, device: torch.device | str = "cpu") -> TrainConfig:
    """Replace the defaults "auto" and 0 by their values for a model on a device.

    Raises:
        OptionError: The model's context is shorter than the config's.
    """
    context = config.context or min(512, model.context_length)
    if context > model.context_length:
        raise OptionError(
            f"the context {context} is longer than the model's context length; use at most {model.context_length}"
        )
    return config.replace(
        context=context,
        stride=config.stride or context,
        micro_batch_size=config.micro_batch_size or max(1, 4096 // context),
        dtype=fast_dtype(device) if config.dtype == "auto" else config.dtype,
    )
