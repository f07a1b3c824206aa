"""Metrics in TensorBoard."""

import sys

import pytest

from zoo.errors import MissingPackage
from zoo.train.run.tensorboard import TensorBoard


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_what_was_written(tmp_path):
    """TensorBoard's own reader finds each value at its step, and none where there was none."""
    pytest.importorskip("tensorboard")
    with TensorBoard(tmp_path) as writer:
        writer.write({"step": 1, "train_loss": 3.5, "val_loss": None, "lr": 1e-3})
        writer.write({"step": 2, "train_loss": float("nan"), "val_loss": 3.25, "lr": 2e-3, "seconds": 1.0})
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()

    assert [(1, 3.5)] == [(e.step, e.value) for e in events.Scalars("loss/train")]
    assert [(2, 3.25)] == [(e.step, e.value) for e in events.Scalars("loss/validation")]
    assert [1, 2] == [e.step for e in events.Scalars("optimizer/learning rate")]


def test_without_tensorboard_the_message_names_the_extra(tmp_path, monkeypatch):
    """Without tensorboard, the error is MissingPackage instead of ImportError."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingPackage, match=r"gpt2-zoo\[tensorboard\]"):
        TensorBoard(tmp_path)
