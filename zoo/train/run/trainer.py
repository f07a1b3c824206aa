"""The training loop: steps, evaluations, samples and checkpoints, in an order that a resumed run repeats exactly."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from zoo.errors import TrainingError
from zoo.hub.runs import list_checkpoints
from zoo.models.gpt2.model import GPTModel
from zoo.train.data.tokens import Tokens
from zoo.train.data.windows import Batches, Windows
from zoo.train.run.checkpoint import State, link_checkpoints, prune, save_checkpoint
from zoo.train.run.guards import alone, check_processes, check_together, is_finite
from zoo.train.run.interrupts import interrupts
from zoo.train.run.metrics import Metrics, Row
from zoo.train.run.samples import Samples
from zoo.train.run.sharded_checkpoint import save_sharded_checkpoint
from zoo.train.run.validation import Validation, is_due
from zoo.train.run.watcher import Watcher
from zoo.train.settings import TrainConfig
from zoo.train.step.adjust import adjust
from zoo.train.step.distributed import World
from zoo.train.step.lora import has_lora
from zoo.train.step.loss import LanguageModelLoss
from zoo.train.step.optimization import StepResult, make_optimizer, split, train_step


class Trainer:
    """A model, its data, and the progress of its training.

    Attributes:
        model: Model that is trained; its weights change in place.
        config: Settings of the run.
        steps: Total number of steps.
        state: Progress of the run. To resume, set a saved state and load the optimizer's before run().
        optimizer: AdamW.
        average: Its `module` has the averaged last weights; None if the run does not average.
    """

    def __init__(
        self,
        model: GPTModel,
        train: Tokens,
        val: Tokens | None,
        config: TrainConfig,
        *,
        out: Path | None = None,
        here: World | None = None,
        fsdp: bool = False,
        compile: bool = False,
        base: str = "",
        generator: torch.Generator | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        """Prepare a model for training.

        Args:
            model: Model on the CPU. If it has adapters, only they are trained.
            train: Token stream to train on, (N,).
            val: Token stream to validate on, or None.
            config: Settings, as zoo.train.run.start.settle returns them.
            out: Directory for checkpoints and metrics; None writes nothing.
            here: Group of training processes.
            fsdp: Whether to shard the parameters.
            compile: Whether to compile the model with torch.compile.
            base: Path of the base of the adapters.
            generator: Generator that drew the weights; in the book's order, dropout continues from its state.
            watcher: Callbacks.

        Raises:
            OptionError: The text is shorter than a window, or options cannot be combined.
        """
        self.here = here or World()
        check_together(config, fsdp=fsdp, lora=has_lora(model))
        self.config, self.out, self.base, self.fsdp = config, out, base, fsdp
        self.watcher = watcher or Watcher()
        self.windows = Windows(train, config.context, config.stride)
        self.validation = Validation(self.windows, val, config, self.here)
        self.batches = Batches(len(self.windows), config.batch_size, seed=config.seed, order=config.order)
        check_processes(self.batches.batch_size, self.here.size)
        self.steps = config.steps or config.epochs * self.batches.steps_per_epoch
        self.schedule = config.make_schedule(self.steps)
        self.model = model.to(self.here.device).train()
        # A single process has nothing to shard; its checkpoints are plain ones, which several processes can read.
        is_shared = fsdp and self.here.size > 1
        self._samples = Samples(self.model, config, self.here, is_shared=is_shared)
        self.loss = LanguageModelLoss(self.model, adjust(self.model, config, train))
        self.module = self.here.wrap(self.loss, fsdp=is_shared, compile=compile)
        self.optimizer = make_optimizer(
            self.module, lr=config.lr, weight_decay=config.weight_decay, decay=config.decay, betas=config.betas
        )
        self.average = AveragedModel(self.model) if config.average else None
        self.state = State()
        self._generator = generator
        self._saved_step = -1

    def run(self) -> str:
        """Train to the end, or until SIGINT or SIGTERM, and save a checkpoint.

        The state of torch's global generator, which dropout draws from, is restored.

        Returns:
            The reason for the end: "done", "interrupted" or "no improvement".

        Raises:
            TrainingError: The loss is not finite. The newest checkpoint is from before.
            OutputError: A checkpoint cannot be written.
        """
        out = self.out if self.here.is_main else None
        devices = [self.here.device] if self.here.device.type == "cuda" else []
        with alone(out), torch.random.fork_rng(devices=devices), interrupts() as interrupted:
            metrics = Metrics(out, from_step=self.state.step) if out else None
            self._restore_order()
            reason = "done"
            while self.state.step < self.steps:
                try:
                    row = self._step()
                except TrainingError as error:
                    raise TrainingError(f"{error} ({self._kept()})") from error
                if row is not None and self.here.is_main:
                    if metrics:
                        metrics.write(row)
                    self.watcher.on_row(row)
                self._sample()
                if self.here.any(interrupted.is_set()):
                    reason = "interrupted"
                    break
                if self.config.patience and self.state.n_worse >= self.config.patience:
                    reason = "no improvement"
                    break
                if is_due(self.state.step, self.config.save_every) or self.state.is_best:
                    self.save()
            self.save()
        return reason

    def _step(self) -> Row | None:
        """Run one step and return its metrics."""
        state, started = self.state, time.perf_counter()
        lr = self.schedule(state.step)
        done = self._train(lr)
        trained = time.perf_counter() - started
        state.seconds += trained
        measured = self.validation.measure(state, self.steps, self._judged())
        if self.config.order == "book" and measured.train is None:
            return None
        return Row(
            step=state.step,
            epoch=state.step / self.batches.steps_per_epoch,
            tokens=state.n_tokens,
            train_loss=done.loss if measured.train is None else measured.train,
            val_loss=measured.val,
            perplexity=None if measured.val is None else math.exp(min(measured.val, 700)),
            lr=lr,
            grad_norm=done.grad_norm,
            tokens_per_s=done.n_tokens / trained,
            seconds=state.seconds,
        )

    def _train(self, lr: float) -> StepResult:
        state, config = self.state, self.config
        if config.order != "book":
            # Dropout is also a function of the step, so that resuming needs no state.
            torch.manual_seed(
                int(np.random.SeedSequence((config.seed, state.step, self.here.rank)).generate_state(1)[0])
            )
        shares = self.batches.share(state.step, self.here.rank, self.here.size, config.micro_batch_size)
        done = train_step(
            self.module,
            self.optimizer,
            [split(self.windows[share]) for share in shares],
            step=state.step + 1,
            lr=lr,
            clip=config.clip or None,
            dtype=config.dtype,
            here=self.here,
        )
        state.step += 1
        state.n_tokens += done.n_tokens
        if self.average and state.step > self.steps * (1 - config.average):
            self.average.update_parameters(self.model)
            state.n_averaged += 1
        return done

    @property
    def averaged(self) -> GPTModel:
        """The model to use: the averaged last weights if there are any, otherwise the model itself."""
        module = self.average.module if self.average and self.state.n_averaged else self.model
        assert isinstance(module, GPTModel)
        return module

    def _judged(self) -> nn.Module:
        """The module to evaluate: that of the averaged weights, once there are any."""
        return LanguageModelLoss(self.averaged, self.loss.used) if self.state.n_averaged else self.module

    def _sample(self) -> None:
        if is_due(self.state.step, self.config.sample_every):
            text = self._samples.write(self.averaged)
            if self.here.is_main:
                self.watcher.on_sample(self.state.step, text)

    def _kept(self) -> str:
        """Return a message about the checkpoint to resume from after a failed step."""
        kept = list_checkpoints(self.out)[:1] if self.out else []
        return f"{kept[0]} is the last good checkpoint" if kept else "no checkpoint had been written yet"

    def save(self) -> None:
        """Write a checkpoint, unless this step already has one, and prune old ones."""
        if self.out is None or self._saved_step == self.state.step:
            return
        if self.here.any(not is_finite(self.model)):
            hint = "lower the learning rate"
            raise TrainingError(f"the weights after step {self.state.step} are not finite; {hint} ({self._kept()})")
        self.state.order = self.batches.state()
        if self.config.order == "book":
            self.state.generator = torch.get_rng_state().numpy().tobytes().hex()
        if self.fsdp:
            path = save_sharded_checkpoint(self.out, self.state, self.model, self.optimizer, self.here)
        elif self.here.is_main:
            average = self.averaged if self.state.n_averaged else None
            path = save_checkpoint(self.out, self.state, self.model, self.optimizer, average=average, base=self.base)
        self.here.barrier()
        self._saved_step = self.state.step
        if self.here.is_main:
            link_checkpoints(self.out, best_step=self.state.best_step)
            prune(self.out, keep=self.config.keep, best_step=self.state.best_step)
            self.watcher.on_checkpoint(path)

    def _restore_order(self) -> None:
        self.batches.restore(self.state.order)
        if self.state.generator:
            torch.set_rng_state(torch.frombuffer(bytearray.fromhex(self.state.generator), dtype=torch.uint8))
        elif self.config.order == "book":
            generator = self._generator or torch.Generator().manual_seed(self.config.seed)
            torch.set_rng_state(generator.get_state())
