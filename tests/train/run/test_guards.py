"""A run is one process's at a time, and its checkpoints are complete, finite and its own."""

import math

import pytest
import torch

import zoo
from zoo.errors import TrainingError, UnsafeFile
from zoo.hub.runs import list_checkpoints, weights_of_run
from zoo.train.data.corpus import Sources
from zoo.train.run.start import Run, Start
from zoo.train.run.watcher import Watcher
from zoo.train.settings import TrainConfig
from zoo.train.step.distributed import World

MODEL = zoo.GPTConfig(vocab_size=50257, context_length=23, width=30, n_heads=5, n_layers=2)
CONFIG = TrainConfig(steps=7, batch_size=4, context=13, lr=1e-2, dtype="float32", seed=7, eval_every=0, save_every=1)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"every effort {i} moves you" for i in range(90)))
    return path


def begin(path, text, **watch):
    """A trainer of a new run."""
    run, first = Run.begin(path, CONFIG, Sources(train=(str(text),)), Start(config=MODEL), World())
    return run.trainer(World(), Watcher(**watch), first=first)


def resume(path):
    """A trainer that goes on."""
    return Run.open(path).trainer(World(), Watcher())


def test_a_run_that_is_running_is_not_resumed(tmp_path, text):
    """Another trainer is refused while one trains, leaves its files alone, and may go on afterwards."""
    refused = []

    def try_to_resume(row):
        if row["step"] == 5:
            with pytest.raises(TrainingError, match="being trained by another process"):
                resume(tmp_path / "run")
            refused.append(row["step"])

    assert begin(tmp_path / "run", text, on_row=try_to_resume).run() == "done"
    assert refused == [5]
    resume(tmp_path / "run")


def test_weights_that_are_not_finite_are_not_saved(tmp_path, text):
    """The checkpoint before them stays the newest, and the error names it."""
    trainer = begin(tmp_path / "run", text)

    def spoil(path):
        if trainer.state.step == 2:
            with torch.no_grad():
                trainer.model.blocks[0].mlp.up.bias[3] = math.inf
            trainer._saved_step = -1
            trainer.save()

    trainer.watcher = type(trainer.watcher)(on_checkpoint=spoil)
    with pytest.raises(TrainingError, match="not finite.*step-00000002 is the last good checkpoint"):
        trainer.run()
    assert list_checkpoints(tmp_path / "run")[0].name == "step-00000002"


def test_links_in_a_run_are_not_followed(tmp_path, text):
    """Neither a checkpoint nor its weights may be a link to somewhere else."""
    begin(tmp_path / "run", text).run()
    newest = list_checkpoints(tmp_path / "run")[0]
    (newest.parent / "step-00000099").symlink_to(tmp_path)
    assert list_checkpoints(tmp_path / "run")[0] == newest
    (newest / "model.safetensors").rename(tmp_path / "elsewhere")
    (newest / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeFile, match="is a link"):
        weights_of_run(tmp_path / "run")
    with pytest.raises(TrainingError, match="no intact checkpoint"):
        for path in list_checkpoints(tmp_path / "run")[1:]:
            path.rename(tmp_path / path.name)
        resume(tmp_path / "run")
