"""The training loop: steps, evaluations, samples and checkpoints, in an order that a resumed run repeats exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from zoo.errors import OptionError
from zoo.functions import draw_as_torch, draw_quickly
from zoo.generation import complete
from zoo.model import GPTModel
from zoo.train.adjust import checkpoint_activations, set_dropout, zero_rows
from zoo.train.checkpoint import State, prune, save_checkpoint
from zoo.train.config import TrainConfig
from zoo.train.distributed import World
from zoo.train.interrupts import interrupts
from zoo.train.loss import LanguageModelLoss
from zoo.train.metrics import Metrics, Row
from zoo.train.sharded import save_sharded_checkpoint
from zoo.train.step import make_optimizer, split, train_step
from zoo.train.tokens import Tokens
from zoo.train.validation import Validation, is_due
from zoo.train.windows import Batches, Windows


def _ignore(*arguments: Any) -> None:
    pass


@dataclass(frozen=True)
class Watcher:
    """What is told of a run while it goes on; in the main process only.

    Attributes:
        on_row: of each line of metrics.
        on_sample: of each sample: the step and the text.
        on_checkpoint: of each checkpoint's path.
    """

    on_row: Callable[[Row], Any] = _ignore
    on_sample: Callable[[int, str], Any] = _ignore
    on_checkpoint: Callable[[Path], Any] = _ignore


class Trainer:
    """A model, what it is trained on, and where the run stands.

    Attributes:
        model: that is trained; its weights change in place.
        config: of the run.
        steps: that the run has in all.
        state: where it stands; give a saved one, and the optimizer its state, before run().
        optimizer: AdamW.
        average: whose `module` has the mean of the last weights, or None if the run takes none.
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
        """Make a model ready; nothing is computed yet.

        Args:
            model: on the CPU; with adapters, only they are trained.
            train: token stream to train on, (N,).
            val: to validate on, or None.
            config: of the run, as zoo.train.run.settle returns it.
            out: directory for checkpoints and metrics; None writes none.
            here: the processes that train together.
            fsdp: whether they share out the parameters.
            compile: whether to let torch.compile make kernels.
            base: path of the checkpoint that adapters belong to.
            generator: whose state dropout goes on from, in the book's order; that which drew the weights, there.
            watcher: is told what happens.

        Raises:
            OptionError: the text is shorter than a window, or options do not go together.
        """
        self.here = here or World()
        if fsdp and (config.average or config.sample_every or config.only_used_ids):
            raise OptionError("fsdp goes without average, samples and only_used_ids; leave them out")
        self.config, self.out, self.base, self.fsdp = config, out, base, fsdp
        self.watcher = watcher or Watcher()
        self.windows = Windows(train, config.context, config.stride)
        self.validation = Validation(self.windows, val, config, self.here.device)
        self.batches = Batches(len(self.windows), config.batch_size, seed=config.seed, order=config.order)
        self.steps = config.steps or config.epochs * self.batches.steps_per_epoch
        self.schedule = config.make_schedule(self.steps)
        self.model = model.to(self.here.device).train()
        self._adjust()
        used = self._used(train)
        self.loss = LanguageModelLoss(self.model, used)
        # One process alone has nothing to share out; its checkpoints stay of the kind that several can read.
        self.module = self.here.wrap(self.loss, fsdp=fsdp and self.here.size > 1, compile=compile)
        self.optimizer = make_optimizer(
            self.module, lr=config.lr, weight_decay=config.weight_decay, decay=config.decay, betas=config.betas
        )
        self.average = AveragedModel(self.model) if config.average else None
        self.state = State()
        self._generator = generator
        self._saved_step = -1

    def _adjust(self) -> None:
        self.model.set_draw(draw_as_torch if self.config.order == "book" else draw_quickly)
        if self.config.dropout is not None:
            set_dropout(self.model, self.config.dropout)
        if self.config.recompute:
            checkpoint_activations(self.model)

    def _used(self, train: Tokens) -> Tensor | None:
        if not self.config.only_used_ids:
            return None
        used = torch.from_numpy(np.unique(train).astype(np.int64)).to(self.here.device)
        zero_rows(self.model, used)
        return used

    def run(self) -> str:
        """Train to the end, or until SIGINT or SIGTERM, and save.

        Torch's global generator, which dropout draws from, is left as it was.

        Returns:
            why it ended: "done", "interrupted" or "no improvement".

        Raises:
            TrainingError: the loss is not finite; the newest checkpoint is from before.
            OutputError: a checkpoint cannot be written.
        """
        metrics = Metrics(self.out, from_step=self.state.step) if self.out and self.here.is_main else None
        devices = [self.here.device] if self.here.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), interrupts() as interrupted:
            self._restore_order()
            reason = "done"
            while self.state.step < self.steps:
                row = self._step()
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
                if is_due(self.state.step, self.config.save_every):
                    self.save()
            self.save()
        return reason

    def _step(self) -> Row | None:
        """Do one step, and measure."""
        state, config, started = self.state, self.config, time.perf_counter()
        if config.order != "book":
            # Dropout too is a function of the step, so that resuming needs no state.
            torch.manual_seed(
                int(np.random.SeedSequence((config.seed, state.step, self.here.rank)).generate_state(1)[0])
            )
        lr = self.schedule(state.step)
        mine = self.batches[state.step][self.here.rank :: self.here.size]
        per_process = self.batches.batch_size // self.here.size
        starts = range(0, per_process, config.micro_batch_size)
        parts = [split(self.windows[mine[start : start + config.micro_batch_size]]) for start in starts]
        done = train_step(
            self.module,
            self.optimizer,
            parts,
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
        trained = time.perf_counter() - started
        state.seconds += trained
        measured = self.validation.measure(state, self.steps, self._judged())
        if config.order == "book" and measured.train is None:
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

    @property
    def averaged(self) -> GPTModel:
        """The model to use: the mean of the last weights if there is one, else the model itself."""
        module = self.average.module if self.average and self.state.n_averaged else self.model
        assert isinstance(module, GPTModel)
        return module

    def _judged(self) -> nn.Module:
        """What is evaluated: the loss of the averaged weights, once there are any."""
        return LanguageModelLoss(self.averaged, self.loss.used) if self.state.n_averaged else self.module

    def _sample(self) -> None:
        config, step = self.config, self.state.step
        if self.here.is_main and is_due(step, config.sample_every):
            text = complete(
                self.averaged,
                config.sample_prompt,
                max_new_tokens=config.sample_tokens,
                temperature=0.0,
                ignore_eos=True,
            )
            self.watcher.on_sample(step, config.sample_prompt + text)

    def save(self) -> None:
        """Write a checkpoint, unless this step has one already, and delete those that are too many."""
        if self.out is None or self._saved_step == self.state.step:
            return
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
            prune(self.out, keep=self.config.keep, best_step=self.state.best_step)
            self.watcher.on_checkpoint(path)

    def _restore_order(self) -> None:
        self.batches.restore(self.state.order)
        if self.state.generator:
            torch.set_rng_state(torch.frombuffer(bytearray.fromhex(self.state.generator), dtype=torch.uint8))
        elif self.config.order == "book":
            generator = self._generator or torch.Generator().manual_seed(self.config.seed)
            torch.set_rng_state(generator.get_state())
