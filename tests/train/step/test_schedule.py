"""Learning rates against the formulas."""

import math

import pytest

from zoo.train.settings import TrainConfig
from zoo.train.step.schedule import Schedule


def test_appendix_d():
    """Warmup from 3e-5 to 1e-3 in 27 of 135 steps, then half a cosine to 1e-6, as the book's appendix D computes it."""
    schedule = TrainConfig(lr=1e-3, warmup=0.2, start_lr=3e-5, final_lr=1e-6, seed=123).make_schedule(135)
    increment = (1e-3 - 3e-5) / 27
    expected = []
    for step in range(135):
        progress = (step - 27) / (135 - 27)
        cosine = 1e-6 + (1e-3 - 1e-6) * 0.5 * (1 + math.cos(math.pi * progress))
        expected.append(3e-5 + step * increment if step < 27 else cosine)
    assert expected == pytest.approx([schedule(step) for step in range(135)], rel=1e-12)


@pytest.mark.parametrize(("kind", "middle", "last"), [("constant", 0.4, 0.4), ("linear", 0.25, 0.1 + 0.3 / 90)])
def test_other_kinds(kind, middle, last):
    """A constant schedule stays at the peak; a linear one falls evenly to the final rate one step after the last."""
    schedule = Schedule(kind=kind, peak=0.4, steps=100, warmup=10, final=0.1)
    assert (0.0, 0.2, 0.4) == (schedule(0), schedule(5), schedule(10))
    assert (middle, last) == pytest.approx((schedule(55), schedule(99)))


def test_a_run_of_warmup_only_does_not_divide_by_zero():
    """A schedule whose warmup is the whole run is all warmup."""
    schedule = Schedule(peak=1.0, steps=4, warmup=4)
    assert [0.0, 0.25, 0.5, 0.75, 1.0] == [schedule(step) for step in range(5)]
