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
from zoo.errors import FormatError, OptionError, TrainingError, ZooError
from zoo.hub.resolve import find_checkpoint
from zoo.hub.runs import DATA, SETTINGS, SHARDED, list_checkpoints
from zoo.models.gpt2.config import GPTConfig
from zoo.models.gpt2.init import create
from zoo.models.gpt2.model import GPTModel
from zoo.train.data.corpus import Sources, check_ids, open_corpus, prepare
from zoo.train.run.checkpoint import State, load_model, load_optimizer, read_state, sweep
from zoo.train.run.sharded_checkpoint import load_sharded
from zoo.train.run.trainer import Trainer
from zoo.train.run.watcher import Watcher
from zoo.train.settings import TrainConfig
from zoo.train.step.distributed import World
from zoo.train.step.lora import LoRA, add_lora
from zoo.train.step.optimization import fast_dtype


@dataclass(frozen=True, kw_only=True)
class Start:
    """The model that a run starts from.

    Attributes:
        model: A checkpoint that zoo.load accepts; "" trains from scratch.
        config: Config of a model to train from scratch.
        init: Initialisation of its weights; see zoo.create.
        lora: Settings of the adapters to train instead of the model.
        fsdp: Whether to shard the parameters among the processes.
        compile: Whether to compile the model with torch.compile.
    """

    model: str = ""
    config: GPTConfig | None = None
    init: str = "gpt2"
    lora: LoRA | None = None
    fsdp: bool = False
    compile: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return all fields by name as plain JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Start:
        """Build an object from the fields that to_dict returns."""
        config, lora = fields.get("config"), fields.get("lora")
        if lora:
            lora = LoRA(**{**lora, "targets": tuple(lora["targets"])})
        return cls(**{**fields, "config": GPTConfig.from_dict(config) if config else None, "lora": lora})


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
    def begin(cls, path: Path, config: TrainConfig, sources: Sources, start: Start, here: World) -> tuple[Run, Any]:
        """Create the directory and its tokens. All processes must call it.

        Returns:
            The run, and the model with the generator that drew its weights: (GPTModel, torch.Generator | None).

        Raises:
            OutputError: The path exists.
            ZooError: The model or the text cannot be read.
        """
        # A run stands for its newest checkpoint, which changes while it trains, so the path of that checkpoint is
        # stored.
        if start.model:
            start = dataclasses.replace(start, model=str(find_checkpoint(start.model)))
        sources = sources.absolute()
        model, generator = _first_model(start, config.seed)
        run = cls(path, settle(config, model.config, here.device), sources, start)
        content = {
            "zoo_run": 1,
            "config": run.config.to_dict(),
            "sources": dataclasses.asdict(sources),
            "start": start.to_dict(),
        }
        if here.is_main:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_output(path) as temporary:
                (temporary / DATA).mkdir(parents=True)
                prepare(sources, model.tokenizer, temporary / DATA)
                (temporary / SETTINGS).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        here.barrier()
        return run, (model, generator)

    @classmethod
    def open(cls, path: Path) -> Run:
        """Read the settings of a run.

        Raises:
            FormatError: The directory is not a run.
        """
        file = path / SETTINGS
        if not file.is_file():
            raise FormatError(path, "is not a run of zoo train: it has no config.json")
        content = read_json(file)
        try:
            config = TrainConfig.from_dict(content["config"])
            return cls(path, config, Sources.from_dict(content["sources"]), Start.from_dict(content["start"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(file, f"is not the config of a run ({error}); use another directory") from error

    def trainer(self, here: World, watcher: Watcher, *, first: Any = None) -> Trainer:
        """Create the trainer: a new one with `first` from begin(), otherwise one from the newest intact checkpoint.

        Raises:
            TrainingError: There is no intact checkpoint.
            OptionError: The text does not fit the model.
        """
        path, state = (None, None) if first else self._newest()
        if path is None:
            model, generator = first or _first_model(self.start, self.config.seed)
        else:
            generator = None
            model = self._model_of(path)
        train, val = open_corpus(self.sources, self.path / DATA)
        for tokens in (train, val):
            if tokens is not None:
                check_ids(tokens, model.config.vocab_size, "the text")
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

    def _newest(self) -> tuple[Path | None, Any]:
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


def _first_model(start: Start, seed: int) -> tuple[GPTModel, torch.Generator | None]:
    if start.model:
        # Updates are too small for the eight bits of bfloat16, so half-precision files are trained in float32.
        model, generator = load(start.model, dtype="float32"), None
    elif start.config is not None:
        generator = torch.Generator().manual_seed(seed)
        model = create(start.config, seed=generator, init=start.init)  # type: ignore[arg-type]
    else:
        raise OptionError(
            "there is no model to train; give a checkpoint to fine-tune or a config to train from scratch"
        )
    if start.lora is not None:
        add_lora(model, start.lora)
    return model, generator
