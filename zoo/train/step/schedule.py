"""Learning rates as a pure function of the step, so that resuming needs no state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["cosine", "linear", "constant"]
KINDS: tuple[Kind, ...] = ("cosine", "linear", "constant")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warmup to a peak, then decay to a final rate.

    Attributes:
        kind: Kind of decay: "cosine" (half a period), "linear" or "constant" (none).
        peak: Highest learning rate.
        steps: Number of steps of the run.
        warmup: Number of steps before the peak is reached.
        start: Learning rate of step 0, if there is a warmup.
        final: Learning rate at the end of the decay.
    """

    kind: Kind = "cosine"
    peak: float
    steps: int
    warmup: int = 0
    start: float = 0.0
    final: float = 0.0

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0.

        As in appendix D of "Build a Large Language Model (From Scratch)", step `warmup` has the peak rate, and the
        decay would reach `final` one step after the last step.
        """
        if step < self.warmup:
            return self.start + (self.peak - self.start) * step / self.warmup
        if self.kind == "constant":
            return self.peak
        progress = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        remaining = 1 - progress if self.kind == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        return self.final + (self.peak - self.final) * remaining
