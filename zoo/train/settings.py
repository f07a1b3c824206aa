"""The settings of a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zoo.errors import OptionError
from zoo.train.data.windows import ORDERS, Order
from zoo.train.step.schedule import KINDS, Kind, Schedule

Dtype = Literal["auto", "float32", "bfloat16"]
Decay = Literal["matrices", "all"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides what a run computes, but for its model and its text.

    Attributes:
        steps: of the optimizer; 0 means as many as epochs take.
        epochs: passes over the text, if steps is 0.
        batch_size: windows in a step, over all processes.
        micro_batch_size: windows that a process computes at once; 0 means about 4,096 tokens of them. The result does
            not depend on it, but for rounding and dropout.
        context: tokens of a window, T; 0 means the model's context length, 512 at most.
        stride: tokens from one window to the next; 0 means context, so that none is seen twice in an epoch.
        order: of the windows: "shuffled", "sequential", or "book": as the book's DataLoader and evaluation draw it from
            torch's global generator, to reproduce its figures.
        lr: the highest learning rate.
        schedule: "cosine", "linear" or "constant", after the warmup.
        warmup: steps that the learning rate rises for; below 1, a fraction of all.
        start_lr: at the first of them.
        final_lr: at the end.
        weight_decay: of AdamW.
        decay: "matrices" spares biases and norms; "all" does not.
        betas: of AdamW.
        clip: largest norm of the gradients; 0 leaves them as they are.
        dropout: in training; None leaves the model's own.
        dtype: of products: "float32", "bfloat16" (the weights stay as they are), or "auto": bfloat16 where the machine
            has instructions for it.
        seed: of the order and of dropout.
        eval_every: steps between evaluations; 0 evaluates at the end only.
        eval_batches: batches of an evaluation; 0 means all.
        patience: evaluations without a better validation loss before the run ends; 0 goes on.
        sample_every: steps between samples; 0 writes none.
        sample_prompt: that they continue.
        sample_tokens: of each, taken greedily.
        save_every: steps between checkpoints; 0 saves at the end only.
        keep: how many of the newest checkpoints stay, beside the best.
        average: fraction of the steps, at the end, whose weights are averaged (Izmailov et al., 2018).
        recompute: whether activations inside blocks are computed again for the backward pass, to save memory.
        only_used_ids: whether the head computes only the ids that the text has; see LanguageModelLoss.used. All other
            rows of the embedding are set to zero.

    Raises:
        OptionError: a value is outside its range.
    """

    steps: int = 0
    epochs: int = 3
    batch_size: int = 8
    micro_batch_size: int = 0
    context: int = 0
    stride: int = 0
    order: Order = "shuffled"
    lr: float = 1e-4
    schedule: Kind = "cosine"
    warmup: float = 0.02
    start_lr: float = 0.0
    final_lr: float = 0.0
    weight_decay: float = 0.1
    decay: Decay = "matrices"
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    dropout: float | None = None
    dtype: Dtype = "auto"
    seed: int = 0
    eval_every: int = 100
    eval_batches: int = 0
    patience: int = 0
    sample_every: int = 0
    sample_prompt: str = "Every effort moves you"
    sample_tokens: int = 50
    save_every: int = 100
    keep: int = 2
    average: float = 0.0
    recompute: bool = False
    only_used_ids: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        counts = ("steps", "epochs", "micro_batch_size", "context", "stride", "eval_every", "eval_batches", "patience")
        for name in (*counts, "sample_every", "sample_tokens", "save_every", "seed"):
            self._check(name, lambda x: type(x) is int and x >= 0, "an integer of at least 0")
        for name in ("batch_size", "keep"):
            self._check(name, lambda x: type(x) is int and x >= 1, "an integer of at least 1")
        self._check("lr", lambda x: 0 < x < math.inf, "a number above 0")
        for name in ("warmup", "start_lr", "final_lr", "weight_decay", "clip"):
            self._check(name, lambda x: 0 <= x < math.inf, "a number of at least 0")
        self._check("dropout", lambda x: x is None or 0 <= x < 1, "in [0, 1)")
        self._check("average", lambda x: 0 <= x < 1, "in [0, 1)")
        self._check("betas", lambda x: len(x) == 2 and all(0 <= beta < 1 for beta in x), "two numbers in [0, 1)")
        self._check("order", lambda x: x in ORDERS, f"one of {', '.join(ORDERS)}")
        self._check("schedule", lambda x: x in KINDS, f"one of {', '.join(KINDS)}")
        self._check("decay", lambda x: x in ("matrices", "all"), "matrices or all")
        self._check("dtype", lambda x: x in ("auto", "float32", "bfloat16"), "auto, float32 or bfloat16")
        if not self.steps and not self.epochs:
            raise OptionError("a run needs steps or epochs; give one of them")

    def _check(self, name: str, is_valid: Any, allowed: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not is_valid(value):
            raise OptionError(f"must be {allowed}, not {value!r}", option=name)

    def make_schedule(self, steps: int) -> Schedule:
        """Return the learning rates of a run of so many steps."""
        warmup = int(self.warmup * steps) if self.warmup < 1 else int(self.warmup)
        return Schedule(
            kind=self.schedule, peak=self.lr, steps=steps, warmup=warmup, start=self.start_lr, final=self.final_lr
        )

    def replace(self, **changes: Any) -> TrainConfig:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return every field by name, all of them plain JSON values."""
        return {**dataclasses.asdict(self), "betas": list(self.betas)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TrainConfig:
        """Build a config from to_dict's fields.

        Raises:
            OptionError: a field is unknown or its value impossible.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := set(fields) - known:
            raise OptionError(f"unknown setting {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}")
        return cls(**fields)


BOOK = TrainConfig(
    epochs=10,
    batch_size=2,
    context=256,
    order="book",
    lr=4e-4,
    schedule="constant",
    warmup=0,
    decay="all",
    betas=(0.9, 0.999),
    clip=0,
    dtype="float32",
    seed=123,
    eval_every=5,
    eval_batches=5,
    sample_every=9,
)
"""The settings of chapter 5 of "Build a Large Language Model (From Scratch)"; its text makes 9 steps an epoch."""
